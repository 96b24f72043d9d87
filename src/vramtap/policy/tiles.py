"""Tiles: an extent divided into groups of adjacent pages, the units of the policy's decisions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from vramtap.pages import FEW, PageRuns

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Tiles:
    """Tiles of an extent; the last may be smaller.

    Args:
        pages: Pages of the extent, at least 1.
        tile_pages: Pages of a tile, at least 1.

    Raises:
        ValueError: a number is less than 1.
    """

    def __init__(self, pages: int, tile_pages: int) -> None:
        if pages < 1 or tile_pages < 1:
            raise ValueError(f"cannot divide {pages} pages into tiles of {tile_pages}")
        self._tile_pages = tile_pages
        edges = np.arange(0, pages + tile_pages, tile_pages, dtype=np.int64)
        self._edges: Final = np.minimum(edges, pages)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Pages of each tile, shape `(tiles,)`."""
        return np.diff(self._edges)

    def __len__(self) -> int:
        return len(self._edges) - 1

    def count(self, runs: PageRuns) -> NDArray[np.int64]:
        """Return how many of these pages lie in each tile, int64, shape `(tiles,)`."""
        array = runs.array
        if not len(array):
            return np.zeros(len(self), dtype=np.int64)
        if len(array) <= FEW:
            return self._count_few(array.tolist())
        # Pages before each edge: the runs that begin before it, less the part of the last run past the edge.
        before = np.concatenate([[0], np.cumsum(array[:, 1] - array[:, 0])])
        begun = np.searchsorted(array[:, 0], self._edges, side="left")
        past = np.where(begun > 0, np.maximum(array[begun - 1, 1] - self._edges, 0), 0)
        counts: NDArray[np.int64] = np.diff(before[begun] - past)
        return counts

    def _count_few(self, pairs: list[list[int]]) -> NDArray[np.int64]:
        counts, size = np.zeros(len(self), dtype=np.int64), self._tile_pages
        for first, last in pairs:
            while first < last:
                tile = first // size
                end = min(last, (tile + 1) * size)
                counts[tile] += end - first
                first = end
        return counts

    def runs(self, chosen: NDArray[np.bool_]) -> PageRuns:
        """Return the pages of the tiles where `chosen`, shape `(tiles,)`, is true."""
        at = np.flatnonzero(chosen)
        return PageRuns(np.stack([self._edges[at], self._edges[at + 1]], axis=1))
