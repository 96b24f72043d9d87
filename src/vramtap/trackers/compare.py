"""Tracker `compare`: compares every page with a copy of the last round, as device models did in 2007.

It needs only to read the memory, so every other tracker falls back to it. It is also the baseline of the
measurements.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from vramtap.errors import VramtapError
from vramtap.memory.own import extent_of
from vramtap.pages import PAGE_SIZE, PageRuns
from vramtap.trackers.backlog import Backlog
from vramtap.trackers.base import AllDirty, TrackerDefaults, Waker, started

if TYPE_CHECKING:
    from collections.abc import Callable

    from vramtap.memory.extent import Extent

CHUNK_PAGES: Final = 64
"""Pages read at once: 256 KiB, so that they are still in the second-level cache when they are compared."""


class CompareTracker(TrackerDefaults):
    """Compares the extent with a copy, word by word, and lets the caller read the copy.

    The caller must read the compared bytes, not the target again. With two reads, a page may show X at the
    comparison, Y at the caller's read, and X again at the next comparison. It then compares equal for ever
    while the caller keeps Y; a blinking caret does this. So the tracker stores the bytes it read in the copy,
    `read_from` is the copy, and every round compares with exactly what the caller has seen.
    """

    name: Final = "compare"
    prefers_window: Final = True

    def __init__(self) -> None:
        self._extent: Extent | None = None
        self._copy = np.empty(0, dtype=np.uint8)
        self._fresh = np.empty(CHUNK_PAGES * PAGE_SIZE, dtype=np.uint8)
        self._backlog: Backlog

    def start(self, extent: Extent) -> None:
        """Allocate the copy; the target is not touched."""
        room = np.zeros(extent.size_bytes + PAGE_SIZE, dtype=np.uint8)
        skip = -room.ctypes.data % PAGE_SIZE
        self._copy = room[skip : skip + extent.size_bytes]
        self._copy_extent, _ = extent_of(self._copy)
        self._extent = extent
        self._backlog = Backlog(extent.pages)

    @property
    def read_from(self) -> Extent:
        """The copy, as of the last collect."""
        started(self._extent, self.name)
        return self._copy_extent

    def collect(self, window: tuple[int, int] | None = None) -> PageRuns | AllDirty:
        """Read the window and compare it; see `Tracker.collect`."""
        extent = started(self._extent, self.name)
        first, last = window or (0, extent.pages)
        dirty = np.zeros(last - first, dtype=np.bool_)
        for at in range(first, last, CHUNK_PAGES):
            end = min(at + CHUNK_PAGES, last)
            fresh = self._fresh[: (end - at) * PAGE_SIZE]
            try:
                extent.read(PageRuns([(at, end)]), fresh, at)
            except VramtapError:
                self.restore(PageRuns.from_mask(dirty).shift(first))
                raise
            known = self._copy[at * PAGE_SIZE : end * PAGE_SIZE]
            if not np.array_equal(fresh.view(np.uint64), known.view(np.uint64)):
                shape = (end - at, PAGE_SIZE // 8)
                differs = fresh.view(np.uint64).reshape(shape) != known.view(np.uint64).reshape(shape)
                dirty[at - first : end - first] = differs.any(axis=1)
                known[:] = fresh
        return self._backlog.take((first, last), PageRuns.from_mask(dirty).shift(first))

    def restore(self, runs: PageRuns) -> None:
        """Report these pages again."""
        self._backlog.add(runs)

    def wake(self, callback: Callable[[], None]) -> Waker | None:
        """Return None: only a comparison finds a change, so this tracker must be polled."""
        return None

    def stop(self) -> None:
        """Free the copy."""
        self._extent = None
        self._copy = np.empty(0, dtype=np.uint8)
