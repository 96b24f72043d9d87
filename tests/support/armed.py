"""A tracker that can be armed, on a scribe's memory, and a consumer that reads what it reports."""

from __future__ import annotations

import os
import select
import signal
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from support.random_policy import RandomPolicy
from support.scribe import PAGE, Scribe
from vramtap.linux.procfs import vm_flags
from vramtap.memory.extent import Extent
from vramtap.memory.process import ProcessSpace
from vramtap.pages import PageRuns
from vramtap.trackers.base import AllDirty
from vramtap.trackers.userfault.hybrid import HybridTracker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


PAGES = 64
WAIT_MS = 10_000
"""Timeout; only a hang takes this long."""


@contextmanager
def anonymous(pages: int = PAGES) -> Iterator[Scribe]:
    with Scribe(pages) as scribe:
        yield scribe


@contextmanager
def memfd(pages: int = PAGES) -> Iterator[Scribe]:
    descriptor = os.memfd_create("armed")
    os.truncate(descriptor, pages * PAGE)
    with Scribe(pages, f"/proc/self/fd/{descriptor}", (descriptor,)) as scribe:
        os.close(descriptor)
        yield scribe


def arms_at_once() -> HybridTracker:
    """Return a tracker that arms after every scan that finds nothing, and leaves no tile unprotected."""
    return HybridTracker(policy=RandomPolicy(0, turn=0, arm=1))


class Armed:
    """A scribe's memory with a tracker, and a consumer that reads the reported pages."""

    def __init__(self, scribe: Scribe, tracker: HybridTracker) -> None:
        self.scribe = scribe
        self.space = ProcessSpace(scribe.pid)
        self.extent = Extent(self.space, scribe.address, scribe.pages)
        self.tracker = tracker
        self.mine = np.zeros(self.extent.size_bytes, np.uint8)
        self.called = 0

    def scan(self, window: tuple[int, int] | None = None) -> PageRuns | AllDirty:
        """Collect and read the reported pages."""
        answer = self.tracker.collect(window)
        first, last = window or (0, self.extent.pages)
        runs = PageRuns([(first, last)]) if isinstance(answer, AllDirty) else answer
        self.tracker.read_from.read(runs, self.mine)
        return answer

    def start(self) -> None:
        """Scan until the tracker is armed; a watchdog that is not ready may delay this."""
        until_s = time.monotonic() + WAIT_MS / 1000
        self.scan()
        while not self.tracker.armed:
            assert time.monotonic() < until_s, "the tracker was not armed in time"
            self.scan()

    def wakes(self, timeout_ms: int = WAIT_MS) -> bool:
        """Return whether the waker's descriptor becomes readable within the timeout."""
        waker = self.tracker.wake(self._call)
        assert waker is not None
        assert waker.fd is not None
        poller = select.poll()
        poller.register(waker.fd, select.POLLIN)
        woken = bool(poller.poll(timeout_ms))
        waker.cancel()
        return woken

    def _call(self) -> None:
        self.called += 1

    def collect_all_dirty(self) -> AllDirty:
        """Wait for the waker, scan, and return the `AllDirty`, which pages near the write may precede."""
        assert self.wakes()
        answer = self.scan()
        if not isinstance(answer, AllDirty):
            assert answer
            answer = self.scan()
        assert isinstance(answer, AllDirty)
        assert not self.tracker.armed
        return answer

    def is_current(self) -> bool:
        """Return whether the consumer's copy equals the memory."""
        truth = np.zeros_like(self.mine)
        self.extent.read(PageRuns.full(self.extent.pages), truth)
        return np.array_equal(self.mine, truth)

    @property
    def watchdog(self) -> int:
        """Process ID of the watchdog."""
        pid = self.tracker.watchdog_pid
        assert pid is not None
        return pid

    def stop_watchdog(self) -> None:
        """Stop the watchdog, and wait until it has stopped."""
        os.kill(self.watchdog, signal.SIGSTOP)
        os.waitid(os.P_PID, self.watchdog, os.WSTOPPED | os.WNOWAIT)


@contextmanager
def attached(scribe: Scribe, make: Callable[[], HybridTracker] = arms_at_once) -> Iterator[Armed]:
    armed = Armed(scribe, make())
    armed.tracker.start(armed.extent)
    try:
        yield armed
    finally:
        armed.tracker.stop()
        armed.space.close()


def protected(pid: int) -> list[tuple[int, int]]:
    """Return the address ranges that are registered for write protection with any userfaultfd."""
    return [(mapping.start, mapping.end) for mapping, flags in vm_flags(pid) if "uw" in flags]


def descriptors(pid: int) -> set[str]:
    return set(os.listdir(f"/proc/{pid}/fd"))
