"""How long the first write after a silence holds the writer, and what a full repaint then costs the writer.

The writer times its own stores with a clock that needs no system call. It writes nothing until vramtap has
come to rest, for at most `LIMIT_S`; only some trackers come to rest. Then it writes one page or its whole
screen at once.

The same shots are taken untapped first, which gives the cost of the stores themselves after such a silence.
More shots are taken with one of vramtap's processes stopped (SIGSTOP) just before the shot and continued
after it. They show that the remaining process, or the kernel, releases the writer.
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
from support.testbed.errors import TestbedError

if TYPE_CHECKING:
    from benchmarks.servers import Server

Progress = Callable[[str], None]

LIMIT_S: Final = 10.0
"""Longest wait for vramtap to come to rest before each shot, seconds."""
RESTING: Final = ("auto", "hybrid")
"""Trackers that come to rest. The others poll all the time."""
STOP_S: Final = 5.0
"""Longest time for a process to stop after SIGSTOP, seconds."""
STRIDE: Final = 37
"""Distance between the pages of two shots; odd, so that the shots spread over the whole screen."""

UNTAPPED: Final = "untapped"
PAGE: Final = "one page"
SCREEN: Final = "the whole screen"
STOPPED: Final = {"server": "one page, vramtap stopped", "helper": "one page, its helper stopped"}


@dataclass(frozen=True)
class Held:
    """Shots of one kind.

    Args:
        tracker: Name as in `--tracker`, or `UNTAPPED`.
        what: What the writer wrote at once.
        pages: Number of pages of the writer's screen.
        first_us: Duration of the first store of each shot, microseconds.
        all_us: Duration of all stores of each shot, microseconds.
        at_rest: Number of shots before which vramtap did not wake up; None when untapped.
        lost: Number of shots without an update.
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
        shots: Number of shots of each kind.
        stopped_shots: Number of shots with each of vramtap's processes stopped.
        idle_s: Shortest silence before each shot, seconds.
        side_by_side: Number of writers, each tapped by its own vramtap.
        trackers: Names as in `--tracker`.
        progress: Called with what is going on.
        size: Width and height of the screens, pixels.

    Raises:
        TestbedError: vramtap does not start.
    """
    counts = {PAGE: shots, SCREEN: shots}
    with contextlib.ExitStack() as stack:
        workers = stack.enter_context(ThreadPoolExecutor(max_workers=4, thread_name_prefix="shots"))
        painters = [stack.enter_context(Painter.of_screen(*size)) for _ in range(side_by_side)]
        found = _shoot(UNTAPPED, painters, {}, counts, idle_s, workers, progress)
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
    """Take all shots of these kinds, spread over the painters."""
    found = []
    rest_limit_s = LIMIT_S if tracker in RESTING else 0.0
    for what, count in counts.items():
        rows = []
        for painter in painters:
            tap = taps.get(painter)
            observed = None if tap is None else partial(wakeups, tap.pid)
            fire = partial(_fill, workers, painter, what, tap)
            rows.append(Lane(what, [] if tap is None else [tap], fire, observed, rest_limit_s))
        taken = lanes.run(rows, {what: count}, idle_s, lambda said: progress(f"{tracker}: {said}"))
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
    """Return the pid of vramtap's server or of its helper; None if it has no helper."""
    if which == "server":
        return tap.pid
    return next((pid for pid in family(tap.pid) if pid != tap.pid), None)


def _fill_while_stopped(painter: Painter, page: int, pid: int | None) -> Filled:
    """Write a page while a process is stopped."""
    if pid is None:
        raise TestbedError("vramtap's helper has ended")
    os.kill(pid, signal.SIGSTOP)
    try:
        _wait_stopped(pid)
        return painter.fill(page, page + 1)
    finally:
        os.kill(pid, signal.SIGCONT)


def _wait_stopped(pid: int) -> None:
    """Wait until every thread of a process has stopped; `kill` returns before they have.

    Raises:
        TestbedError: A thread still runs after `STOP_S`.
    """
    until_s = time.monotonic() + STOP_S
    while time.monotonic() < until_s:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        # The state follows the name, which stands in parentheses (proc_pid_stat(5)).
        states = {(task / "stat").read_text().rpartition(")")[2].split()[0] for task in tasks}
        if states == {"T"}:
            return
    raise TestbedError(f"pid {pid}: a thread still runs {STOP_S:g} s after SIGSTOP")
