"""What a tracker costs: per look on our side, and in the guest's frame rate on its side.

Each workload runs in one machine, as fast as it can. Time is cut into slices; in every round each tracker
gets one, and so does nobody, in an order that turns from round to round. A tracker's slowdown is the median,
over the rounds, of the untracked slice's frame rate over its own: both are measured within seconds of each
other, so that what the rest of the computer does meanwhile falls on both.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from vramtap.display.screen import Screen
from vramtap.errors import VramtapError
from vramtap.machine.choose_cpu import CpuName, LogForm
from vramtap.machine.machine import Machine
from vramtap.pages import PageRuns
from vramtap.targets.bochs import Dispi
from vramtap.trackers.choose import choose
from vramtap.trackers.contract import Everything, Tracker

TRACKERS: Final = ("compare", "log", "dirtybits")
"""Those that need no KVM."""
INTERVAL_S: Final = 1 / 60
"""Between two looks, as a tap looks."""
SLICE_S: Final = 0.5
"""30 looks; a full-screen video draws some hundred frames meanwhile."""
ROUNDS: Final = 5
_STARTING_S: Final = 30.0
"""For the guest to draw its first frames."""


@dataclass(slots=True)
class Slice:
    """One tracker's turn.

    Args:
        frames_per_s: Drawn by the guest meanwhile.
        collect_us: Of each collect, microseconds.
        look_us: Of each collect with the reading and comparing of the pixels that followed.
        pages: Reported by each collect.
        everything: How many collects answered `Everything`.
    """

    frames_per_s: float
    collect_us: list[float] = field(default_factory=list)
    look_us: list[float] = field(default_factory=list)
    pages: list[int] = field(default_factory=list)
    everything: int = 0


@dataclass(frozen=True, slots=True)
class Cost:
    """What one tracker costs on one workload.

    Args:
        workload: Of the machine's guest.
        tracker: As `--tracker` names it.
        collect_us: Median of a collect, microseconds.
        look_us: Median of a collect and of what the consumer does with it: read the pages named, compare,
            convert.
        pages: Median of the pages a collect reported; everything counts as all of the extent.
        everything: Share of the collects that answered `Everything`.
        frames_per_s: Of the guest while tracked, median.
        untracked_per_s: Of the guest while not, median.
        slowdown: Untracked over tracked frame rate, median of the rounds; 1.0 is none. NaN where the guest
            draws no frames.
        looks: How many were measured.
    """

    workload: str
    tracker: str
    collect_us: float
    look_us: float
    pages: float
    everything: float
    frames_per_s: float
    untracked_per_s: float
    slowdown: float
    looks: int


def measure(
    workloads: Sequence[str],
    trackers: Sequence[str],
    *,
    cpu: CpuName = "unicorn",
    log: LogForm = "bitmap",
    mode: str = "1024x768",
    seed: int = 1,
    rounds: int = ROUNDS,
    slice_s: float = SLICE_S,
    progress: Callable[[str], None] = lambda what: None,
) -> Iterator[Cost]:
    """Measure each tracker on each workload.

    Args:
        workloads: Of the guest that comes with the package.
        trackers: Names for `choose`.
        cpu: Of the machine.
        log: With KVM, the form of its log.
        mode: The guest's, `WIDTHxHEIGHT`.
        seed: Of the workload.
        rounds: How often each tracker gets its turn.
        slice_s: How long a turn is, seconds.
        progress: Told before each slice what it is.

    Yields:
        A cost for each pair, workload by workload.

    Raises:
        VramtapError: the machine ended, or a tracker does not work on it.
    """
    for workload in workloads:
        line = f"workload={workload} seed={seed} hz=0 mode={mode}"
        with Machine(cpu=cpu, log=log, command_line=line, held=True) as machine:
            _start(machine, workload)
            slices: dict[str, list[Slice]] = {name: [] for name in ("none", *trackers)}
            for turn in range(rounds):
                names = ["none", *trackers]
                for name in names[turn % len(names) :] + names[: turn % len(names)]:
                    progress(f"{workload}: {name}, round {turn + 1} of {rounds}")
                    slices[name].append(_slice(machine, name, slice_s))
            for name in trackers:
                yield _cost(workload, name, slices["none"], slices[name], machine.extent.pages)


def _start(machine: Machine, workload: str) -> None:
    """Let the guest set its mode and draw its first picture, then run."""
    if workload == "idle":
        ready = threading.Event()
        machine.on_mode = ready.set
        machine.release()
        if not ready.wait(_STARTING_S):
            raise VramtapError("bench", workload, f"the guest set no mode within {_STARTING_S:.0f} s")
        return
    machine.run_frames(2, timeout_s=_STARTING_S)
    machine.release()


def _slice(machine: Machine, name: str, slice_s: float) -> Slice:
    if name == "none":
        frames, began_s = machine.frames, time.perf_counter()
        _wait(machine, began_s + slice_s)
        return Slice((machine.frames - frames) / (time.perf_counter() - began_s))
    tracker, screen = choose(name, machine.extent).tracker, Screen()
    try:
        result = Slice(0.0)
        # The first answer is everything, and the screen is read as a whole: neither is what is measured.
        _look(machine, tracker, screen)
        frames, began_s = machine.frames, time.perf_counter()
        due_s = began_s
        while due_s < began_s + slice_s:
            due_s += INTERVAL_S
            _wait(machine, due_s)
            answer, collect_us, look_us = _look(machine, tracker, screen)
            result.collect_us.append(collect_us)
            result.look_us.append(look_us)
            everything = isinstance(answer, Everything)
            result.everything += everything
            result.pages.append(machine.extent.pages if isinstance(answer, Everything) else answer.count)
        result.frames_per_s = (machine.frames - frames) / (time.perf_counter() - began_s)
        return result
    finally:
        tracker.disarm()


def _wait(machine: Machine, until_s: float) -> None:
    """Let the guest run until then, on the clock of `perf_counter`.

    Raises:
        VramtapError: it has ended.
    """
    if machine.wait_end(max(0.0, until_s - time.perf_counter())):
        raise VramtapError("bench", "machine", machine.ended or "ended")


def _look(machine: Machine, tracker: Tracker, screen: Screen) -> tuple[PageRuns | Everything, float, float]:
    """What a tap does at each look; returns the answer, microseconds of the collect, and of it all."""
    began_ns = time.perf_counter_ns()
    mode = Dispi.from_words(machine.dispi.words()).mode(machine.extent.size_bytes)
    window = mode.window if mode is not None and tracker.reads_memory else None
    answer = tracker.collect(window)
    collected_ns = time.perf_counter_ns()
    if mode is not None:
        screen.set_mode(mode)
        runs = PageRuns.full(machine.extent.pages) if isinstance(answer, Everything) else answer
        screen.refresh(tracker.source, runs)
    return answer, (collected_ns - began_ns) / 1e3, (time.perf_counter_ns() - began_ns) / 1e3


def _cost(workload: str, name: str, free: list[Slice], tracked: list[Slice], pages: int) -> Cost:
    ratios = [
        without.frames_per_s / with_.frames_per_s
        for without, with_ in zip(free, tracked, strict=True)
        if with_.frames_per_s
    ]
    looks = sum(len(part.collect_us) for part in tracked)
    return Cost(
        workload,
        name,
        statistics.median(us for part in tracked for us in part.collect_us),
        statistics.median(us for part in tracked for us in part.look_us),
        statistics.median(count for part in tracked for count in part.pages),
        sum(part.everything for part in tracked) / looks,
        statistics.median(part.frames_per_s for part in tracked),
        statistics.median(part.frames_per_s for part in free),
        statistics.median(ratios) if ratios else float("nan"),
        looks,
    )
