"""Changes: the exact rectangles in which two states of a screen differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from vramtap.display.region import Rect, boxes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

TILE_COLUMNS: Final = 32
TILE_ROWS: Final = 16
"""Differences nearer to each other than about a tile go into one rectangle: a line of text is one then,
words and all. A console full of changing figures took 51, 33 and 26 rectangles at 16, 32 and 64 columns,
and 4.5, 4.8 and 5.0 % of the screen."""
MAX_RECTS: Final = 256
"""Rectangles found at most. Each is a header, and work of microseconds, for every viewer it goes to."""


class ChangeFinder:
    """Finds where two states of a screen of one size differ, without allocating anything of that size.

    Args:
        width: Of the screen, pixels.
        height: Of the screen, pixels.
    """

    def __init__(self, width: int, height: int) -> None:
        self._width = width
        self._tiles_across = -(-width // TILE_COLUMNS)
        # All false between two calls, so that rows outside the bands asked about count as equal; whole
        # tiles, so that none needs care at the edges.
        padded = (-(-height // TILE_ROWS) * TILE_ROWS, self._tiles_across * TILE_COLUMNS)
        self._differs = np.zeros(padded, dtype=np.bool_)

    def find(
        self, old: NDArray[np.uint32], new: NDArray[np.uint32], bands: Sequence[tuple[int, int]]
    ) -> list[Rect]:
        """Compare rows exactly.

        Args:
            old: Shape `(height, width)`.
            new: Shape `(height, width)`.
            bands: Which rows to look at: half-open, sorted, disjoint, none empty.

        Returns:
            At most `MAX_RECTS` disjoint rectangles that cover every pixel that differs; no row or
            column at the edge of one is without such a pixel.
        """
        changed = [(top, bottom) for top, bottom in bands if self._compare(old, new, top, bottom)]
        if not changed:
            return []
        first, last = changed[0][0] // TILE_ROWS, -(-changed[-1][1] // TILE_ROWS)
        try:
            return self._rects(first, last)
        finally:
            for top, bottom in changed:
                self._differs[top:bottom] = False

    def _compare(self, old: NDArray[np.uint32], new: NDArray[np.uint32], top: int, bottom: int) -> bool:
        differs = self._differs[top:bottom]
        np.not_equal(old[top:bottom], new[top:bottom], out=differs[:, : self._width])
        return bool(differs.view(np.uint64).any())

    def _rects(self, first: int, last: int) -> list[Rect]:
        """What differs in tile rows `[first, last)`."""
        # Booleans are looked at eight a word, which is several times faster than one by one.
        words = self._differs[first * TILE_ROWS : last * TILE_ROWS].view(np.uint64)
        by_column = np.bitwise_or.reduce(words.reshape(last - first, TILE_ROWS, -1), axis=1)
        columns = by_column.view(np.bool_).reshape(last - first, self._tiles_across, TILE_COLUMNS)
        occupied = np.logical_or.reduce(columns, axis=2)
        found = boxes(occupied, MAX_RECTS)
        box_of_tile = np.zeros(occupied.shape, dtype=np.intp)
        for at, (x, y, width, height) in enumerate(found):
            box_of_tile[y : y + height, x : x + width] = at
        tile_y, tile_x = np.nonzero(occupied)
        box = box_of_tile[tile_y, tile_x]

        by_row = words
        for _ in range((TILE_COLUMNS // 8).bit_length() - 1):
            by_row = by_row[:, 0::2] | by_row[:, 1::2]
        rows = (by_row != 0).reshape(last - first, TILE_ROWS, -1)[tile_y, :, tile_x]
        left, right = _bounds(columns[tile_y, tile_x])
        top, bottom = _bounds(rows)
        lefts, tops = (np.full(len(found), np.iinfo(np.intp).max) for _ in range(2))
        rights, bottoms = (np.zeros(len(found), dtype=np.intp) for _ in range(2))
        np.minimum.at(lefts, box, tile_x * TILE_COLUMNS + left)
        np.maximum.at(rights, box, tile_x * TILE_COLUMNS + right)
        np.minimum.at(tops, box, (tile_y + first) * TILE_ROWS + top)
        np.maximum.at(bottoms, box, (tile_y + first) * TILE_ROWS + bottom)
        corners = np.stack([lefts, tops, rights - lefts, bottoms - tops], axis=1)
        return [Rect(*corner) for corner in corners.tolist()]


def _bounds(flags: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Of each row of flags, of which one must be true: half-open range from the first true to the last."""
    return flags.argmax(axis=1), flags.shape[1] - flags[:, ::-1].argmax(axis=1)
