"""Measure what each tracker costs: vramtap per scan, and the guest's frame rate.

The frames of a workload differ, so all turns draw the same frames. Each turn gets a new machine with the same
seed, which draws as fast as it can. The number of frames is the number that fits into a turn untracked.

In every round each tracker has one turn, and there is one untracked turn. The order rotates from round to
round. A tracker's slowdown is its time over the untracked time of the same round, and the median over the
rounds. Both times are measured within seconds of each other, so other load on the computer affects both.

`blind` is not a tracker: its turns read, compare and convert the whole screen at every scan. What the guest
loses to it is the cost of reading, without tracking.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import statistics
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from vramtap.display.bochs import Dispi
from vramtap.display.page_spans import pages_of
from vramtap.display.screen import Screen
from vramtap.errors import VramtapError
from vramtap.machine.machine import Machine
from vramtap.pages import PageRuns
from vramtap.trackers.base import AllDirty, Tracker
from vramtap.trackers.choose import choose

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from vramtap.machine.choose_cpu import CpuName, LogForm

TRACKERS: Final = ("compare", "log", "dirtybits", "hybrid")
"""Trackers that do not need KVM."""
BLIND: Final = "blind"
"""Name of turns that scan without tracking."""
INTERVAL_S: Final = 1 / 60
"""Poll interval of a tap, seconds."""
SLICE_S: Final = 0.5
"""Length of a turn, seconds: 30 scans, and about thirty frames of a full-screen video."""
ROUNDS: Final = 5
"""Turns of each tracker."""
UNTRACKED: Final = "untracked"
"""Name of turns without tracking and without scanning."""
_FIRST_FRAMES: Final = 2
_STARTING_S: Final = 30.0
"""Longest time for the guest to draw its first frames, seconds."""


@dataclass(slots=True)
class Turn:
    """One tracker's turn.

    Args:
        took_s: Time for the turn's frames, seconds.
        collect_us: Duration of each collect, microseconds.
        scan_us: Duration of each scan, microseconds: a collect, and reading, comparing and converting the
        pages.
        pages: Number of pages reported by each collect.
        all_dirty: Number of collects that returned `AllDirty`.
    """

    took_s: float
    collect_us: list[float] = field(default_factory=list)
    scan_us: list[float] = field(default_factory=list)
    pages: list[int] = field(default_factory=list)
    all_dirty: int = 0


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of one tracker on one workload.

    Args:
        workload: Workload of the guest.
        tracker: Name as in `--tracker`, or `BLIND`.
        collect_us: Duration of a collect, microseconds, median.
        scan_us: Duration of a scan, microseconds, median: a collect, and reading, comparing and converting
            the reported pages.
        pages: Number of pages reported by a collect, median; `AllDirty` counts as all pages of the extent.
        all_dirty: Share of the collects that returned `AllDirty`.
        frames: Number of frames drawn in each turn.
        frames_per_s: Frame rate of the guest while tracked, median.
        untracked_per_s: Frame rate of the guest while untracked, median.
        slowdown: Tracked over untracked time for the same frames, median of the rounds; 1.0 means no
            slowdown. None if the guest draws no frames.
        scans: Number of scans measured.
        lost_us: Time the guest loses from one scan to the next, microseconds, median of the rounds. It may be
            slightly negative because measurements vary. 0.0 if the guest draws no frames.
        total_us: Cost of tracking from one scan to the next, microseconds: the guest's loss and the mean
            duration of a scan.
        slowdowns: Slowdown of each round; empty if `slowdown` is None.
    """

    workload: str
    tracker: str
    collect_us: float
    scan_us: float
    pages: float
    all_dirty: float
    frames: int
    frames_per_s: float
    untracked_per_s: float
    slowdown: float | None
    scans: int
    lost_us: float
    total_us: float
    slowdowns: Sequence[float]


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
        workloads: Workloads of the packaged guest.
        trackers: Names for `choose`, or `BLIND`.
        cpu: CPU of the machine.
        log: Form of KVM's dirty log.
        mode: Mode of the guest, `WIDTHxHEIGHT`.
        seed: Seed of the workload.
        rounds: Number of turns of each tracker.
        slice_s: Length of a turn, seconds.
        progress: Called before each turn with its name.

    Yields:
        A cost for each pair, workload by workload.

    Raises:
        VramtapError: The machine ended, or a tracker does not work on it.
    """
    for workload in workloads:
        line = f"workload={workload} seed={seed} hz=0 mode={mode}"

        def machine(line: str = line) -> Machine:
            return Machine(cpu=cpu, log=log, command_line=line, held=True)

        progress(f"{workload}: how many frames make a turn")
        frames = _frames_in(machine(), workload, slice_s)
        names = [UNTRACKED, *trackers]
        turns: dict[str, list[Turn]] = {name: [] for name in names}
        for number in range(rounds):
            first = number % len(names)
            for name in names[first:] + names[:first]:
                progress(f"{workload}: {name}, round {number + 1} of {rounds}")
                turns[name].append(_turn(machine(), workload, name, frames, slice_s))
        for name in trackers:
            yield _cost(workload, name, frames, turns[UNTRACKED], turns[name])


def _frames_in(machine: Machine, workload: str, slice_s: float) -> int:
    """Return how many frames the guest draws untracked in `slice_s`: at least one, or none if it is idle."""
    with machine:
        _start(machine, workload)
        machine.release()
        before = machine.frames
        _wait(machine, time.perf_counter() + slice_s)
        return max(machine.frames - before, int(workload != "idle"))


def _start(machine: Machine, workload: str) -> None:
    """Let the guest set its mode and draw its first picture, then pause it."""
    machine.run_frames(1 if workload == "idle" else _FIRST_FRAMES, timeout_s=_STARTING_S)


def _turn(machine: Machine, workload: str, name: str, frames: int, slice_s: float) -> Turn:
    """Draw the frames while the tracker scans; without frames, scan for `slice_s`."""
    with machine:
        _start(machine, workload)
        if name == UNTRACKED:
            return Turn(_drawing_s(machine, frames, slice_s, lambda: None))
        tracker = None if name == BLIND else choose(name, machine.extent).tracker
        screen, turn = Screen(), Turn(0.0)
        try:
            # The first scan is not measured: it returns AllDirty and reads the whole screen.
            _scan(machine, tracker, screen)

            def scan() -> None:
                answer, collect_us, scan_us = _scan(machine, tracker, screen)
                turn.collect_us.append(collect_us)
                turn.scan_us.append(scan_us)
                turn.all_dirty += isinstance(answer, AllDirty)
                turn.pages.append(machine.extent.pages if isinstance(answer, AllDirty) else answer.count)

            turn.took_s = _drawing_s(machine, frames, slice_s, scan)
        finally:
            if tracker is not None:
                tracker.stop()
        return turn


def _drawing_s(machine: Machine, frames: int, slice_s: float, scan: Callable[[], None]) -> float:
    """Scan at the interval until the frames are drawn; return how long they took, seconds.

    Raises:
        VramtapError: The machine ended, or stopped drawing.
    """
    began_s = due_s = time.perf_counter()
    drawn: concurrent.futures.Future[float] = concurrent.futures.Future()

    def draw() -> None:
        try:
            machine.run_frames(frames)
        except VramtapError as error:
            drawn.set_exception(error)
        else:
            drawn.set_result(time.perf_counter() - began_s)

    if frames:
        threading.Thread(target=draw, name="vramtap-bench").start()
    else:
        machine.release()
    while True:
        due_s += INTERVAL_S
        if frames:
            with contextlib.suppress(TimeoutError):
                took_s = drawn.result(max(0.0, due_s - time.perf_counter()))
                scan()
                return took_s
        else:
            _wait(machine, due_s)
            if due_s - began_s > slice_s:
                return slice_s
        scan()


def _wait(machine: Machine, until_s: float) -> None:
    """Let the guest run until a time on the clock of `perf_counter`.

    Raises:
        VramtapError: The machine has ended.
    """
    if machine.wait_end(max(0.0, until_s - time.perf_counter())):
        raise VramtapError("bench", "machine", machine.ended or "ended")


def _scan(
    machine: Machine, tracker: Tracker | None, screen: Screen
) -> tuple[PageRuns | AllDirty, float, float]:
    """Scan as a tap does.

    Returns:
        The collect's answer, the duration of the collect, and the duration of the scan, microseconds.
    """
    began_ns = time.perf_counter_ns()
    mode = Dispi.from_words(machine.dispi.words()).mode(machine.extent.size_bytes)
    answer: PageRuns | AllDirty = PageRuns([mode.window] if mode is not None else [])
    if tracker is not None:
        answer = tracker.collect(mode.window if mode is not None and tracker.prefers_window else None)
    collected_ns = time.perf_counter_ns()
    if mode is not None:
        screen.set_mode(mode)
        runs = PageRuns.full(machine.extent.pages) if isinstance(answer, AllDirty) else answer
        damage = screen.refresh(machine.extent if tracker is None else tracker.read_from, runs)
        if tracker is not None and tracker.wants_feedback:
            tracker.feedback(pages_of(damage.rects, mode))
    return answer, (collected_ns - began_ns) / 1e3, (time.perf_counter_ns() - began_ns) / 1e3


def _cost(workload: str, name: str, frames: int, free: list[Turn], tracked: list[Turn]) -> Cost:
    pairs = list(zip(free, tracked, strict=True)) if frames else []
    ratios = [turn.took_s / base.took_s for base, turn in pairs]
    lost = [(turn.took_s - base.took_s) * 1e6 / len(turn.scan_us) for base, turn in pairs]
    lost_us = statistics.median(lost) if lost else 0.0
    scans = sum(len(turn.collect_us) for turn in tracked)
    return Cost(
        workload,
        name,
        statistics.median(us for turn in tracked for us in turn.collect_us),
        statistics.median(us for turn in tracked for us in turn.scan_us),
        statistics.median(count for turn in tracked for count in turn.pages),
        sum(turn.all_dirty for turn in tracked) / scans,
        frames,
        frames / statistics.median(turn.took_s for turn in tracked),
        frames / statistics.median(turn.took_s for turn in free),
        statistics.median(ratios) if ratios else None,
        scans,
        lost_us,
        lost_us + statistics.fmean(us for turn in tracked for us in turn.scan_us),
        ratios,
    )
