"""The rectangles in which two states of a screen differ, by exact comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from vramtap.display.region import Rect, boxes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

DIFF_TILE_COLUMNS: Final = 32
DIFF_TILE_ROWS: Final = 16
"""Size of a tile, pixels. Differences that are about a tile apart or less go into one rectangle, so that a
line of text is one rectangle. Measured on a console full of changing figures: 51, 33 and 26 rectangles at 16,
32 and 64 columns, with 4.5, 4.8 and 5.0 % of the screen in them."""
MAX_RECTS: Final = 256
"""Maximum number of rectangles. Each one costs every viewer a header and some microseconds."""


class ChangeFinder:
    """Finds the rectangles in which two states of a screen differ.

    A finder is for one size of screen. It allocates its mask of that size once, not at each call.

    Args:
        width: Width of the screen, pixels.
        height: Height of the screen, pixels.
    """

    def __init__(self, width: int, height: int) -> None:
        self._width = width
        self._tiles_across = -(-width // DIFF_TILE_COLUMNS)
        # All false between two calls, so that rows outside the compared bands count as equal. Padded to
        # whole tiles, so that the tiles at the edges need no special code.
        padded = (-(-height // DIFF_TILE_ROWS) * DIFF_TILE_ROWS, self._tiles_across * DIFF_TILE_COLUMNS)
        self._differs = np.zeros(padded, dtype=np.bool_)

    def find(
        self, old: NDArray[np.uint32], new: NDArray[np.uint32], bands: Sequence[tuple[int, int]]
    ) -> list[Rect]:
        """Return the rectangles in which two states differ.

        Args:
            old: Old pixels, shape `(height, width)`.
            new: New pixels, shape `(height, width)`.
            bands: Rows to compare: half-open ranges, sorted, disjoint, not empty.

        Returns:
            At most `MAX_RECTS` disjoint rectangles that cover every pixel that differs. The first and
            last row and column of each rectangle hold a pixel that differs.
        """
        changed = [(top, bottom) for top, bottom in bands if self._compare(old, new, top, bottom)]
        if not changed:
            return []
        first, last = changed[0][0] // DIFF_TILE_ROWS, -(-changed[-1][1] // DIFF_TILE_ROWS)
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
        """Return the rectangles of tile rows `[first, last)`."""
        # Eight booleans are handled as one word, which is several times faster than one by one.
        words = self._differs[first * DIFF_TILE_ROWS : last * DIFF_TILE_ROWS].view(np.uint64)
        by_column = np.bitwise_or.reduce(words.reshape(last - first, DIFF_TILE_ROWS, -1), axis=1)
        columns = by_column.view(np.bool_).reshape(last - first, self._tiles_across, DIFF_TILE_COLUMNS)
        occupied = np.logical_or.reduce(columns, axis=2)
        found = boxes(occupied, MAX_RECTS)
        box_of_tile = np.zeros(occupied.shape, dtype=np.intp)
        for at, (x, y, width, height) in enumerate(found):
            box_of_tile[y : y + height, x : x + width] = at
        tile_y, tile_x = np.nonzero(occupied)
        box = box_of_tile[tile_y, tile_x]

        by_row = words
        for _ in range((DIFF_TILE_COLUMNS // 8).bit_length() - 1):
            by_row = by_row[:, 0::2] | by_row[:, 1::2]
        rows = (by_row != 0).reshape(last - first, DIFF_TILE_ROWS, -1)[tile_y, :, tile_x]
        left, right = _bounds(columns[tile_y, tile_x])
        top, bottom = _bounds(rows)
        lefts, tops = (np.full(len(found), np.iinfo(np.intp).max) for _ in range(2))
        rights, bottoms = (np.zeros(len(found), dtype=np.intp) for _ in range(2))
        np.minimum.at(lefts, box, tile_x * DIFF_TILE_COLUMNS + left)
        np.maximum.at(rights, box, tile_x * DIFF_TILE_COLUMNS + right)
        np.minimum.at(tops, box, (tile_y + first) * DIFF_TILE_ROWS + top)
        np.maximum.at(bottoms, box, (tile_y + first) * DIFF_TILE_ROWS + bottom)
        corners = np.stack([lefts, tops, rights - lefts, bottoms - tops], axis=1)
        return [Rect(*corner) for corner in corners.tolist()]


def _bounds(flags: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the half-open range from the first to the last true flag of each row.

    Args:
        flags: Shape `(rows, columns)`. Each row has a true flag.
    """
    return flags.argmax(axis=1), flags.shape[1] - flags[:, ::-1].argmax(axis=1)
