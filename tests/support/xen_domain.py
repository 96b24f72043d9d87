"""A domain of the fake Xen, its video RAM, and a consumer that reads the reported pages."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import numpy as np

from support.fake_xen.host import VRAM_FRAME, FakeXen, fake_xen
from vramtap.linux.schedstat import SchedstatProbe
from vramtap.memory.extent import Extent
from vramtap.memory.foreign import XenSpace
from vramtap.pages import NO_PAGES, PAGE_SIZE, PageRuns
from vramtap.trackers.base import AllDirty, Reason
from vramtap.trackers.xen.tracker import XenTracker
from vramtap.xen.foreignmemory import ForeignMemory

if TYPE_CHECKING:
    from numpy.typing import NDArray

DOMID: Final = 3


class ModelClock(SchedstatProbe):
    """Clock of a device model that runs when the test says so."""

    def __init__(self) -> None:
        super().__init__(os.getpid())
        self.runs = 0

    def read(self) -> bytes:
        """Return the number of runs."""
        return b"%d" % self.runs


class XenDomain:
    """A domain whose video RAM is placed, a clock that the test advances, and a copy of the pages read.

    Args:
        pages: Size of the video RAM, pages.
        hap: Whether the domain runs under hardware-assisted paging.
    """

    def __init__(self, *, pages: int, hap: bool) -> None:
        self._close = contextlib.ExitStack()
        self.xen: FakeXen = self._close.enter_context(fake_xen())
        self.domid, self.pages, self.hap = DOMID, pages, hap
        self.now_s = 1000.0
        self.model = ModelClock()
        self.space = XenSpace(ForeignMemory(), pages, "domain a", str(uuid.uuid4()))
        self._close.callback(self.space.close)
        self.space.model = self.model
        self.extent = Extent(self.space, 0, pages)
        self.truth = np.zeros(pages, dtype=np.uint8)
        self.mine = np.full(pages, 0xFF, dtype=np.uint8)
        self._value = 0
        self.xen.create(self.domid, pages=pages, hap=hap)
        assert self.space.place(self.domid, VRAM_FRAME)

    def clock(self) -> float:
        """Return the current time, seconds."""
        return self.now_s

    def tracker(self, make: Callable[..., XenTracker] = XenTracker) -> XenTracker:
        """Return a started tracker; `close` stops it."""
        tracker = make(clock=self.clock)
        tracker.start(self.extent)
        self._close.callback(tracker.stop)
        return tracker

    def close(self) -> None:
        """Stop the trackers and free the domain."""
        self._close.close()

    def _next_value(self, page: int) -> int:
        self._value = self._value % 250 + 1
        self.truth[page] = self._value
        return self._value

    def write(self, page: int) -> None:
        """Write to a page as the guest."""
        self.xen.write(self.domid, page, self._next_value(page))

    def draw(self, page: int) -> None:
        """Write to a page as the device model."""
        self.xen.draw(self.domid, page, self._next_value(page))
        self.model.runs += 1

    def reboot_after_end(self) -> None:
        """Replace an ended domain by a new one, filled with zeros and placed."""
        self.space.unplace()
        self.domid += 1
        self.truth[:] = 0
        self.xen.create(self.domid, pages=self.pages, hap=self.hap)
        assert self.space.place(self.domid, VRAM_FRAME)

    def read(self, answer: PageRuns | AllDirty, window: tuple[int, int]) -> PageRuns:
        """Read the reported pages as a consumer does; return those that changed."""
        runs = PageRuns([window]) if isinstance(answer, AllDirty) else answer
        assert runs == runs.clip(*window)
        into: NDArray[np.uint8] = np.zeros(self.pages * PAGE_SIZE, dtype=np.uint8)
        self.extent.read(runs, into)
        mask, now = runs.to_mask(self.pages), into[::PAGE_SIZE]
        changed = mask & (now != self.mine)
        self.mine[mask] = now[mask]
        return PageRuns.from_mask(changed)


Make = Callable[..., XenDomain]
"""Makes a domain that the fixture `make` closes: `make(pages, hap=...)`."""


def reason(answer: PageRuns | AllDirty) -> Reason:
    assert isinstance(answer, AllDirty), answer
    return answer.reason


def take_first(tracker: XenTracker) -> None:
    """Take the first answer; from then on the log is complete."""
    assert reason(tracker.collect()) is Reason.FIRST
    assert tracker.collect() == NO_PAGES
