"""How long a writer is held by the first write after a stillness, and what a whole repaint then loses.

The writer times its own stores with a clock that needs no system call. It is silent until vramtap has
stopped waking up, where its tracker ever does, for `LIMIT_S` at most; then it writes a page, or all of its
screen, at once. The same shots are taken before anybody taps it: that is what they
cost by themselves after such a silence. Then with one of vramtap's processes stopped (SIGSTOP) just before
the shot and let go on after it: a writer must be let go by whoever is left.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks import lanes, servers
from benchmarks.lanes import Lane
from benchmarks.painter import Filled, Painter
from benchmarks.rest import family, wakeups
from support.testbed.errors import LabError

if TYPE_CHECKING:
    from benchmarks.servers import Server

Progress = Callable[[str], None]

LIMIT_S: Final = 10.0
"""How long coming to rest is waited for before each shot."""
RESTING: Final = ("auto", "hybrid")
"""Trackers that come to rest; the others ask all the time."""
STOP_S: Final = 5.0
"""How long a process that was sent SIGSTOP may take to stop."""
STRIDE: Final = 37
"""From the page of one shot to that of the next; odd, so that all places of a screen have their turn."""

NOBODY: Final = "nobody"
PAGE: Final = "one page"
SCREEN: Final = "the whole screen"
STOPPED: Final = {"server": "one page, vramtap stopped", "helper": "one page, its helper stopped"}


@dataclass(frozen=True)
class Held:
    """Shots of one kind.

    Args:
        tracker: As `--tracker` names it, or `NOBODY`.
        what: What was written at once.
        pages: In the writer's screen.
        first_us: Of each shot, how long the first store took, microseconds.
        all_us: Of each shot, how long all stores took, microseconds.
        at_rest: Shots before which vramtap did not wake up; None where nobody taps.
        lost: Shots after which no update came.
    """

    tracker: str
    what: str
    pages: int
    first_us: list[float]
    all_us: list[float]
    at_rest: int | None
    lost: int


def measure(
    shots: int,
    stopped_shots: int,
    idle_s: float,
    side_by_side: int,
    trackers: list[str],
    progress: Progress,
    size: tuple[int, int] = (1024, 768),
) -> list[Held]:
    """Time writers of their own screens, untapped and tapped.

    Args:
        shots: Of each kind.
        stopped_shots: With a process stopped.
        idle_s: Silence before each, at least.
        side_by_side: Writers, each with a vramtap of its own.
        trackers: As `--tracker` names them.
        progress: Told what is going on.
        size: Of the screens, pixels.

    Raises:
        LabError: vramtap does not start.
    """
    counts = {PAGE: shots, SCREEN: shots}
    with contextlib.ExitStack() as stack:
        workers = stack.enter_context(ThreadPoolExecutor(max_workers=4, thread_name_prefix="shots"))
        painters = [stack.enter_context(Painter.of_screen(*size)) for _ in range(side_by_side)]
        found = _shoot(NOBODY, painters, {}, counts, idle_s, workers, progress)
        for tracker in trackers:
            with contextlib.ExitStack() as tapping:
                taps = {}
                for index, painter in enumerate(painters):
                    progress(f"{tracker}: vramtap {index + 1} of {side_by_side} starts")
                    taps[painter] = tapping.enter_context(servers.vramtap(painter.url, "--tracker", tracker))
                found += _shoot(tracker, painters, taps, counts, idle_s, workers, progress)
                for which, what in STOPPED.items():
                    able = [painter for painter in painters if _process(which, taps[painter]) is not None]
                    if stopped_shots and able:
                        some = {what: stopped_shots}
                        found += _shoot(tracker, able, taps, some, idle_s, workers, progress)
    return found


def _shoot(
    tracker: str,
    painters: list[Painter],
    taps: dict[Painter, Server],
    counts: dict[str, int],
    idle_s: float,
    workers: ThreadPoolExecutor,
    progress: Progress,
) -> list[Held]:
    """All shots of these kinds, spread over the painters."""
    found = []
    idle_after_s = LIMIT_S if tracker in RESTING else 0.0
    for what, count in counts.items():
        rows = []
        for painter in painters:
            tap = taps.get(painter)
            observed = None if tap is None else partial(wakeups, tap.pid)
            fire = partial(_fill, workers, painter, what, tap)
            rows.append(Lane(what, [] if tap is None else [tap], fire, observed, idle_after_s))
        taken = lanes.run(rows, {what: count}, idle_s, lambda told: progress(f"{tracker}: {told}"))
        filled = [shot.result.result() for shot in taken]
        found.append(
            Held(
                tracker,
                what,
                painters[0].pages,
                [each.first_us for each in filled],
                [each.all_us for each in filled],
                sum(bool(shot.rested) for shot in taken) if taps else None,
                sum(not shot.arrived_s for shot in taken) if taps else 0,
            )
        )
    return found


def _fill(
    workers: ThreadPoolExecutor, painter: Painter, what: str, tap: Server | None, number: int
) -> Future[Filled]:
    if what == SCREEN:
        return workers.submit(painter.fill, 0, painter.pages)
    page = number * STRIDE % painter.pages
    for which, name in STOPPED.items():
        if what == name and tap is not None:
            return workers.submit(_fill_while_stopped, painter, page, _process(which, tap))
    return workers.submit(painter.fill, page, page + 1)


def _process(which: str, tap: Server) -> int | None:
    """Vramtap's own process, or that of its helper; None where it has none."""
    if which == "server":
        return tap.pid
    return next((pid for pid in family(tap.pid) if pid != tap.pid), None)


def _fill_while_stopped(painter: Painter, page: int, pid: int | None) -> Filled:
    """Write a page while a process does nothing."""
    if pid is None:
        raise LabError("vramtap's helper has ended")
    os.kill(pid, signal.SIGSTOP)
    try:
        _wait_stopped(pid)
        return painter.fill(page, page + 1)
    finally:
        os.kill(pid, signal.SIGCONT)


def _wait_stopped(pid: int) -> None:
    """Wait until every thread of a process has stopped: the signal is only asked for at first.

    Raises:
        LabError: it goes on.
    """
    until_s = time.monotonic() + STOP_S
    while time.monotonic() < until_s:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        # The state follows the name, which stands in parentheses (proc_pid_stat(5)).
        states = {(task / "stat").read_text().rpartition(")")[2].split()[0] for task in tasks}
        if states == {"T"}:
            return
    raise LabError(f"pid {pid} does not stop")
