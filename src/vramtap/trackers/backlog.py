"""Backlog: pages that a tracker still has to report."""

from __future__ import annotations

from vramtap.pages import NO_PAGES, PageRuns
from vramtap.trackers.base import AllDirty, Reason


class Backlog:
    """Pages to report in a later answer, and pages whose log was lost.

    A new backlog has lost all pages, since nothing was scanned before.

    Args:
        pages: Size of the extent, pages.
        why: Reason for the first answer.
    """

    __slots__ = ("_dirty", "_lost", "_pages", "why")

    def __init__(self, pages: int, why: AllDirty | None = None) -> None:
        self._pages = pages
        self._lost = PageRuns.full(pages)
        self._dirty = NO_PAGES
        self.why: AllDirty = why or AllDirty(Reason.FIRST)
        """Reason of the last loss."""

    def __bool__(self) -> bool:
        """Return whether any page is to be reported."""
        return bool(self._lost or self._dirty)

    @property
    def runs(self) -> PageRuns:
        """All pages to report."""
        return self._lost.union(self._dirty)

    def lose(self, why: AllDirty, runs: PageRuns | None = None) -> AllDirty:
        """Note that the log of some pages was lost.

        Args:
            why: The answer for these pages.
            runs: Pages relative to the extent; all pages if None.

        Returns:
            `why`.
        """
        self.why = why
        if runs is None:
            self._lost, self._dirty = PageRuns.full(self._pages), NO_PAGES
        else:
            self._lost = self._lost.union(runs)
        return why

    def add(self, runs: PageRuns) -> None:
        """Note that pages are dirty."""
        self._dirty = self._dirty.union(runs)

    def take(self, window: tuple[int, int], found: PageRuns = NO_PAGES) -> PageRuns | AllDirty:
        """Return what is to be reported of a window, and remove it from the backlog.

        Args:
            window: Half-open page range.
            found: Pages in the window that the caller has just found dirty.

        Returns:
            The dirty pages in the window, `found` among them; or the reason if the log of any page in the
            window was lost.
        """
        dirty = self._dirty
        if dirty:
            dirty = dirty.clip(*window)
            self._dirty = self._dirty.difference(dirty)
        if self._lost and self._lost.clip(*window):
            self._lost = self._lost.difference(PageRuns([window]))
            return self.why
        return found.union(dirty)
