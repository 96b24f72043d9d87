"""A program that forks tapping processes. Each forces its tracker through its states until it is killed.

`python forking_tapper.py PID ADDRESS PAGES BOARD`: the memory to tap, and a descriptor of shared memory.
There the tapping process writes its `Stage` and its watchdog's pid.

A line on standard input with a seed forks a tapping process. The program prints `forked PID`, then
`attached`, and `gone STATUS` when the process, its watchdog and all its other children have ended. All
modules are loaded before the fork, so a process attaches within a tenth of a second. Most of this time its
helper needs to start.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import select
import signal
import sys
from enum import IntEnum
from typing import TYPE_CHECKING, Final, NoReturn

import numpy as np

from support.forced import ForcedPolicy
from vramtap.linux.calls import LIBC
from vramtap.memory.extent import Extent
from vramtap.memory.process import ProcessSpace
from vramtap.pages import PAGE_SIZE, PageRuns
from vramtap.trackers.base import AllDirty
from vramtap.trackers.userfault.calibrate import fault_us, wake_up_us
from vramtap.trackers.userfault.hybrid import HybridTracker

if TYPE_CHECKING:
    from vramtap.linux.watchdog import Watchdog
    from vramtap.policy.decide import State

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36


class Stage(IntEnum):
    """Stage of a tapping process."""

    ATTACHING = 1
    SCANNING = 2
    """Reads the log and the unprotected tiles, or reads pixels."""
    CHANGING_TILES = 3
    """Unprotects or protects tiles."""
    ARMING = 4
    ARMED = 5
    """Waits for a write."""
    DISARMING = 6


class Board:
    """Stage of the tapping process, in memory that the test shares.

    Args:
        fd: File descriptor of a page of shared memory.
    """

    def __init__(self, fd: int) -> None:
        self._words = (ctypes.c_uint64 * 2).from_buffer(mmap.mmap(fd, PAGE_SIZE))

    @property
    def stage(self) -> Stage:
        """Current stage."""
        return Stage(self._words[0])

    @stage.setter
    def stage(self, stage: Stage) -> None:
        self._words[0] = stage

    @property
    def watchdog_pid(self) -> int:
        """Pid of the process's watchdog. 0 before it has one."""
        return int(self._words[1])

    @watchdog_pid.setter
    def watchdog_pid(self, pid: int) -> None:
        self._words[1] = pid


class Staged(HybridTracker):
    """Tracker that writes its stage to the board."""

    board: Board

    def _arm(self, extent: Extent) -> bool:
        self.board.stage = Stage.ARMING
        done = super()._arm(extent)
        self.board.stage = Stage.ARMED if self.armed else Stage.SCANNING
        return done

    def _disarm(self, extent: Extent, watchdog: Watchdog) -> PageRuns:
        self.board.stage = Stage.DISARMING
        near = super()._disarm(extent, watchdog)
        self.board.stage = Stage.SCANNING
        return near

    def _apply(self, state: State) -> None:
        before = self.board.stage
        if not np.array_equal(self._state.unprotected, state.unprotected):
            self.board.stage = Stage.CHANGING_TILES
        super()._apply(state)
        self.board.stage = before


def _tap(extent: Extent, seed: int, board: Board) -> NoReturn:
    tracker = Staged(policy=ForcedPolicy(seed, arm=0.7))
    tracker.board = board
    tracker.start(extent)
    assert not tracker.unarmable, tracker.unarmable
    board.stage, board.watchdog_pid = Stage.SCANNING, tracker.watchdog_pid or 0
    os.write(1, b"attached\n")
    known, fresh = (np.zeros(extent.size_bytes, np.uint8) for _ in range(2))
    while True:
        answer = tracker.collect()
        runs = PageRuns.full(extent.pages) if isinstance(answer, AllDirty) else answer
        extent.read(runs, fresh)
        if tracker.wants_feedback:
            differ = (fresh.reshape(-1, PAGE_SIZE) != known.reshape(-1, PAGE_SIZE)).any(axis=1)
            tracker.feedback(PageRuns([(page, page + 1) for page in np.flatnonzero(differ).tolist()]))
        known[:] = fresh
        waker = tracker.wake(lambda: None)
        if waker is not None:
            assert waker.fd is not None
            if not runs:
                select.select([waker.fd], [], [])
            waker.cancel()


def main(pid: int, address: int, pages: int, board_fd: int) -> None:
    """Fork a process for each line, until standard input ends."""
    # Orphans of the helper become children of this process, so that it can wait for their end.
    LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    extent, board = Extent(ProcessSpace(pid), address, pages), Board(board_fd)
    wake_up_us(), fault_us(anonymous=True), fault_us(anonymous=False)
    for line in sys.stdin:
        board.stage, board.watchdog_pid = Stage.ATTACHING, 0
        child = os.fork()
        if not child:
            LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            try:
                _tap(extent, int(line), board)
            finally:
                sys.excepthook(*sys.exc_info())  # reached only after an exception
                os._exit(1)
        os.write(1, f"forked {child}\n".encode())
        status = 0
        try:
            while True:
                ended, code = os.waitpid(-1, 0)
                status = code if ended == child else status
        except ChildProcessError:
            os.write(1, f"gone {os.waitstatus_to_exitcode(status)}\n".encode())


if __name__ == "__main__":
    main(*(int(argument, 0) for argument in sys.argv[1:5]))
