"""Record the built-in VM in the guest's own time: the guest draws an interval's frames, then vramtap scans.

So the trace is that of a machine that keeps up, however slow this machine is: each interval has as many
frames as the guest's frame rate has in that time.
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
"""Default frame rate of `caret`, frames a second (machine/guest/main.c)."""
STARTING_S: Final = 30.0
"""Longest time for the guest to draw its first frame, seconds."""
BY_THE_CLOCK: Final = ("desktop",)
"""Workloads that draw by the time of day, so that vramtap cannot pause them between frames."""


def in_guest_time(spec: TargetSpec) -> bool:
    """Return whether a target can be recorded in guest time.

    The target has to be `demo:` with a workload of the packaged guest that draws by frames.
    """
    if spec.kind != "demo" or "image" in spec.query:
        return False
    return spec.choice("workload", WORKLOADS, WORKLOADS[0]) not in BY_THE_CLOCK


def record_machine(
    spec: TargetSpec,
    recording: Recording,
    *,
    hz: float,
    intervals: int,
    stop: threading.Event,
    progress: Progress = lambda recording: None,
) -> None:
    """Record the built-in VM.

    Args:
        spec: `demo:` with a workload that draws by frames. Its `hz`, if not 0, is the guest's frame rate.
            Without `hz`, `caret` blinks at its default rate, and the other workloads draw one frame in each
            interval.
        recording: Receives the intervals. It remains usable if this call fails after the first interval.
        hz: Intervals a second of the guest's time.
        intervals: Number of intervals.
        stop: Ends the recording when another thread sets it.
        progress: Called after each interval.

    Raises:
        UsageError: A parameter of the target is not valid.
        VramtapError: Writes cannot be logged here, or the guest ended before the first interval.
    """
    cpu = cast("CpuName", spec.choice("cpu", CPU_NAMES, "auto"))
    line = command_line(dataclasses.replace(spec, query={**spec.query, "hz": "0"}))
    tracker = LogTracker()
    with Machine(cpu=cpu, command_line=line, held=True) as machine:
        machine.run_frames(1, timeout_s=STARTING_S)
        try:
            start_log(tracker, machine.extent, spec.url)
            recording.ended = _record_frames(machine, tracker, spec, recording, hz, intervals, stop, progress)
        except TargetGone as error:
            recording.ended = str(error)
            if not recording.intervals:
                raise
        except VramtapError as error:
            recording.ended = str(error)
            raise
        finally:
            tracker.stop()


def _record_frames(
    machine: Machine,
    tracker: LogTracker,
    spec: TargetSpec,
    recording: Recording,
    hz: float,
    intervals: int,
    stop: threading.Event,
    progress: Progress,
) -> str:
    """Record the intervals of a running machine; return why the recording ended.

    Raises:
        VramtapError: The guest shows no linear mode.
        TargetGone: The guest has ended.
    """
    frames_hz = _frames_hz(spec, hz)
    # Without a limit the guest draws forever.
    last_frame = spec.number("frames", 0) or None
    mode = Dispi.from_words(machine.dispi.words()).mode(machine.extent.size_bytes)
    if mode is None:
        raise VramtapError("trace record", spec.url, "the guest shows no linear mode")
    follower = Follower(tracker, recording, mode)
    for interval in range(1, intervals + 1):
        if stop.is_set():
            return STOPPED
        due = 1 + int(interval * frames_hz / hz)
        due = due if last_frame is None else min(due, last_frame)
        if due > machine.frames:
            machine.run_frames(due - machine.frames)
        mode = Dispi.from_words(machine.dispi.words()).mode(machine.extent.size_bytes)
        ended = follower.add(round(interval * 1e9 / hz), follower.collect(), mode)
        progress(recording)
        if ended:
            return ended
    return f"after {intervals} intervals"


def _frames_hz(spec: TargetSpec, hz: float) -> float:
    """Return the guest's frame rate, frames a second; 0 for a guest that draws nothing."""
    workload = spec.choice("workload", WORKLOADS, WORKLOADS[0])
    if workload == "idle":
        return 0
    return spec.number("hz", CARET_HZ if workload == "caret" else 0) or hz
