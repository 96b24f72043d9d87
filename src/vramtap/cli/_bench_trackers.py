"""What a tracker costs: per look on our side, and in the guest's frame rate on its side.

A workload's frames are not all alike. So each turn of a tracker, and of nobody, runs the same frames: it
gets a machine of its own, started anew from the same seed, and draws as many frames as fitted into a turn
untracked, as fast as it can. In every round each tracker gets one turn, and so does nobody, in an order that
moves on from round to round. A tracker's slowdown is the median, over the rounds, of its time over the
untracked time: both are measured within seconds of each other, so that what the rest of the computer does
meanwhile falls on both.

`blind` is no tracker: its turns read, compare and convert the whole screen at every look. What the guest
loses to them is lost to reading, and not to tracking.
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
"""Those that need no KVM."""
BLIND: Final = "blind"
"""Whose turns look without tracking."""
INTERVAL_S: Final = 1 / 60
"""Between two looks, as a tap looks."""
SLICE_S: Final = 0.5
"""30 looks; a full-screen video draws some thirty frames meanwhile."""
ROUNDS: Final = 5
NOBODY: Final = "nobody"
_FIRST_FRAMES: Final = 2
_STARTING_S: Final = 30.0
"""For the guest to draw its first frames."""


@dataclass(slots=True)
class Turn:
    """One tracker's turn.

    Args:
        took_s: For the turn's frames, seconds.
        collect_us: Of each collect, microseconds.
        look_us: Of each collect with the reading and comparing of the pixels that followed.
        pages: Reported by each collect.
        everything: How many collects answered `AllDirty`.
    """

    took_s: float
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
        everything: Share of the collects that answered `AllDirty`.
        frames: Drawn in each turn; the same ones in all.
        frames_per_s: Of the guest while tracked, median.
        untracked_per_s: Of the guest while not, median.
        slowdown: Tracked over untracked time for these frames, median of the rounds; 1.0 is none. None
            where the guest draws no frames.
        looks: How many were measured.
        lost_us: Of the guest's time between two looks, microseconds, median of the rounds: the difference to
            the untracked time for these frames, which may fall below nothing by what measuring varies. 0.0
            where the guest draws no frames.
        total_us: What tracking costs in all from one look to the next: the guest's loss and our mean look.
        slowdowns: Of each round, as `slowdown`; empty where that is None.
    """

    workload: str
    tracker: str
    collect_us: float
    look_us: float
    pages: float
    everything: float
    frames: int
    frames_per_s: float
    untracked_per_s: float
    slowdown: float | None
    looks: int
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
        workloads: Of the guest that comes with the package.
        trackers: Names for `choose`, or `BLIND`.
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

        def machine(line: str = line) -> Machine:
            return Machine(cpu=cpu, log=log, command_line=line, held=True)

        progress(f"{workload}: how many frames make a turn")
        frames = _frames_in(machine(), workload, slice_s)
        names = [NOBODY, *trackers]
        turns: dict[str, list[Turn]] = {name: [] for name in names}
        for number in range(rounds):
            first = number % len(names)
            for name in names[first:] + names[:first]:
                progress(f"{workload}: {name}, round {number + 1} of {rounds}")
                turns[name].append(_turn(machine(), workload, name, frames, slice_s))
        for name in trackers:
            yield _cost(workload, name, frames, turns[NOBODY], turns[name])


def _frames_in(machine: Machine, workload: str, slice_s: float) -> int:
    """How many frames the guest draws untracked in so many seconds; at least one, or none if it is idle."""
    with machine:
        _start(machine, workload)
        machine.release()
        before = machine.frames
        _wait(machine, time.perf_counter() + slice_s)
        return max(machine.frames - before, int(workload != "idle"))


def _start(machine: Machine, workload: str) -> None:
    """Let the guest set its mode and draw its first picture, and hold it there."""
    machine.run_frames(1 if workload == "idle" else _FIRST_FRAMES, timeout_s=_STARTING_S)


def _turn(machine: Machine, workload: str, name: str, frames: int, slice_s: float) -> Turn:
    """Draw the frames, looked at by the tracker of this name; without frames, look for so many seconds."""
    with machine:
        _start(machine, workload)
        if name == NOBODY:
            return Turn(_drawing_s(machine, frames, slice_s, lambda: None))
        tracker = None if name == BLIND else choose(name, machine.extent).tracker
        screen, turn = Screen(), Turn(0.0)
        try:
            # The first answer is everything, and the screen is read as a whole: neither is measured.
            _look(machine, tracker, screen)

            def look() -> None:
                answer, collect_us, look_us = _look(machine, tracker, screen)
                everything = isinstance(answer, AllDirty)
                turn.collect_us.append(collect_us)
                turn.look_us.append(look_us)
                turn.everything += everything
                turn.pages.append(machine.extent.pages if isinstance(answer, AllDirty) else answer.count)

            turn.took_s = _drawing_s(machine, frames, slice_s, look)
        finally:
            if tracker is not None:
                tracker.stop()
        return turn


def _drawing_s(machine: Machine, frames: int, slice_s: float, look: Callable[[], None]) -> float:
    """Look at the interval until the frames are drawn; returns how long they took, seconds.

    Raises:
        VramtapError: the machine ended, or draws them no more.
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
                look()
                return took_s
        else:
            _wait(machine, due_s)
            if due_s - began_s > slice_s:
                return slice_s
        look()


def _wait(machine: Machine, until_s: float) -> None:
    """Let the guest run until then, on the clock of `perf_counter`.

    Raises:
        VramtapError: it has ended.
    """
    if machine.wait_end(max(0.0, until_s - time.perf_counter())):
        raise VramtapError("bench", "machine", machine.ended or "ended")


def _look(
    machine: Machine, tracker: Tracker | None, screen: Screen
) -> tuple[PageRuns | AllDirty, float, float]:
    """What a tap does at each look; returns the answer, microseconds of the collect, and of it all."""
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
    ratios = [mine.took_s / nobodys.took_s for nobodys, mine in pairs]
    lost = [(mine.took_s - nobodys.took_s) * 1e6 / len(mine.look_us) for nobodys, mine in pairs]
    lost_us = statistics.median(lost) if lost else 0.0
    looks = sum(len(turn.collect_us) for turn in tracked)
    return Cost(
        workload,
        name,
        statistics.median(us for turn in tracked for us in turn.collect_us),
        statistics.median(us for turn in tracked for us in turn.look_us),
        statistics.median(count for turn in tracked for count in turn.pages),
        sum(turn.everything for turn in tracked) / looks,
        frames,
        frames / statistics.median(turn.took_s for turn in tracked),
        frames / statistics.median(turn.took_s for turn in free),
        statistics.median(ratios) if ratios else None,
        looks,
        lost_us,
        lost_us + statistics.fmean(us for turn in tracked for us in turn.look_us),
        ratios,
    )
