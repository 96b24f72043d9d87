"""Recording the embedded machine in the guest's own time: an interval's frames are drawn, then looked at.

However slow the machine is here, the trace is that of one which keeps up: between two looks lie as many
frames as its rate has in that time.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final, cast

from vramtap.display.bochs import Dispi
from vramtap.errors import TargetGone, VramtapError
from vramtap.machine.choose_cpu import CPU_NAMES, CpuName
from vramtap.machine.machine import Machine
from vramtap.machine.workloads import WORKLOADS
from vramtap.targets.machine.demo import command_line
from vramtap.trace.record import STOPPED, Progress, start_log
from vramtap.trace.recording import Follower, Recording
from vramtap.trackers.userfault.log import LogTracker

if TYPE_CHECKING:
    import threading

    from vramtap.targets.url import TargetSpec

CARET_HZ: Final = 2
"""Frames a second of `caret` unless told otherwise (machine/guest/main.c)."""
STARTING_S: Final = 30.0
"""For the guest to draw its first frame."""
BY_THE_CLOCK: Final = ("desktop",)
"""Workloads that draw by the time of day, which cannot be made to wait."""


def in_guest_time(spec: TargetSpec) -> bool:
    """Whether a target can be recorded so: the machine with a workload of its guest that draws by frames."""
    if spec.kind != "demo" or "image" in spec.query:
        return False
    return spec.choice("workload", WORKLOADS, WORKLOADS[0]) not in BY_THE_CLOCK


def record_machine(
    spec: TargetSpec,
    recording: Recording,
    *,
    hz: float,
    looks: int,
    stop: threading.Event,
    progress: Progress = lambda recording: None,
) -> None:
    """Record a machine of our own.

    Args:
        spec: `demo:` with one of the workloads that draw by frames. Its `hz`, if not 0, is the rate of the
            guest's frames; without it, `caret` blinks as it always does and the others draw one each look.
        recording: What takes it all; of use whatever becomes of this call, once there are looks.
        hz: Looks a second of the guest's time.
        looks: How many.
        stop: Set from another thread, ends it.
        progress: Told after each look.

    Raises:
        UsageError: a parameter means nothing.
        VramtapError: writes cannot be logged here, or the guest ended before the first look.
    """
    cpu = cast("CpuName", spec.choice("cpu", CPU_NAMES, "auto"))
    line = command_line(dataclasses.replace(spec, query={**spec.query, "hz": "0"}))
    workload = spec.choice("workload", WORKLOADS, WORKLOADS[0])
    frames_hz = spec.number("hz", CARET_HZ if workload == "caret" else 0) or hz
    if workload == "idle":
        frames_hz = 0
    # Without any, the guest draws for ever.
    most = spec.number("frames", 0) or None
    tracker = LogTracker()
    with Machine(cpu=cpu, command_line=line, held=True) as machine:
        machine.run_frames(1, timeout_s=STARTING_S)
        try:
            start_log(tracker, machine.extent, spec.url)
            mode = Dispi.from_words(machine.dispi.words()).mode(machine.extent.size_bytes)
            if mode is None:
                raise VramtapError("trace record", spec.url, "the guest shows no linear mode")
            follower = Follower(tracker, recording, mode)
            for look in range(1, looks + 1):
                if stop.is_set():
                    recording.ended = STOPPED
                    return
                due = 1 + int(look * frames_hz / hz)
                due = due if most is None else min(due, most)
                if due > machine.frames:
                    machine.run_frames(due - machine.frames)
                mode = Dispi.from_words(machine.dispi.words()).mode(machine.extent.size_bytes)
                recording.ended = follower.keep(round(look * 1e9 / hz), follower.collect(), mode)
                progress(recording)
                if recording.ended:
                    return
            recording.ended = f"after {looks} looks"
        except TargetGone as error:
            recording.ended = str(error)
            if not recording.looks:
                raise
        except VramtapError as error:
            recording.ended = str(error)
            raise
        finally:
            tracker.stop()
