"""Tracker `compare`: every page is compared with a copy from last round, as device models did in 2007.

It needs nothing from the kernel but reading, so it is what every other tracker falls back to; and it is the
baseline they are measured against.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from vramtap.errors import VramtapError
from vramtap.memory.own import extent_of
from vramtap.pages import NO_PAGES, PAGE_SIZE, PageRuns
from vramtap.trackers.base import AllDirty, Reason, TrackerDefaults, Waker

if TYPE_CHECKING:
    from collections.abc import Callable

    from vramtap.memory.extent import Extent

CHUNK_PAGES: Final = 64
"""Pages read at once: 256 KiB, so that the fresh bytes are still in the second-level cache when compared."""


class CompareTracker(TrackerDefaults):
    """Compares the extent with a copy of it, word by word, and hands out the copy.

    The consumer must read what was compared, not the target once more. With two reads, a page that shows
    X when it is compared, Y when the consumer reads it, and X again by the next round compares equal for
    ever while the consumer keeps Y: a blinking caret does just that. So the fresh bytes go into the copy,
    `read_from` is the copy, and every round is compared with exactly what the consumer has seen.
    """

    name: Final = "compare"
    prefers_window: Final = True
    precision: Final[Literal["exact", "superset"]] = "exact"

    def __init__(self) -> None:
        self._extent: Extent | None = None
        self._copy = np.empty(0, dtype=np.uint8)
        self._fresh = np.empty(CHUNK_PAGES * PAGE_SIZE, dtype=np.uint8)
        self._unknown = NO_PAGES
        self._restored = NO_PAGES

    def start(self, extent: Extent) -> None:
        """Take note of the extent; nothing is touched in the target."""
        room = np.zeros(extent.size_bytes + PAGE_SIZE, dtype=np.uint8)
        skip = -room.ctypes.data % PAGE_SIZE
        self._copy = room[skip : skip + extent.size_bytes]
        self._source, _ = extent_of(self._copy)
        self._extent = extent
        self._unknown = PageRuns.full(extent.pages)
        self._restored = NO_PAGES

    @property
    def read_from(self) -> Extent:
        """Our copy, as of the last collect."""
        if self._extent is None:
            raise VramtapError("source", "compare", "not armed", "call arm() first")
        return self._source

    def collect(self, window: tuple[int, int] | None = None) -> PageRuns | AllDirty:
        """Read the window and compare it; see `Tracker.collect`."""
        extent = self._extent
        if extent is None:
            raise VramtapError("collect", "compare", "not armed", "call arm() first")
        first, last = window or (0, extent.pages)
        new = bool(self._unknown.clip(first, last))
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
        restored = self._restored.clip(first, last)
        self._restored = self._restored.difference(restored)
        if new:
            self._unknown = self._unknown.difference(PageRuns([(first, last)]))
            return AllDirty(Reason.FIRST)
        return PageRuns.from_mask(dirty).shift(first).union(restored)

    def restore(self, runs: PageRuns) -> None:
        """Report these pages again."""
        self._restored = self._restored.union(runs)

    def wake(self, callback: Callable[[], None]) -> Waker | None:
        """Nothing but comparing finds a change: it must be asked."""
        return None

    def stop(self) -> None:
        """Forget the copy."""
        self._extent = None
        self._copy = np.empty(0, dtype=np.uint8)
