"""Tiles of 64x64 pixels for ZRLE and Tight: their runs and palettes."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vramtap.rfb.convert import WorkingPixels

ZRLE_TILE: Final = 64
"""Side of a tile, pixels. ZRLE prescribes it (RFC 6143, 7.7.5). The Tight encoder uses the same tiles."""
_SAMPLES: Final = 512
"""Pixels of a tile that are checked first. If they have too many colours, so has the tile. The check costs an
eighth of a check of all pixels."""


@dataclass(frozen=True, slots=True)
class TileGroup:
    """Tiles of one size, from the inside or from an edge of a rectangle.

    Args:
        numbers: Number of each tile in the rectangle, counted row by row. Shape `(tiles,)`.
        height: Height of each tile, pixels.
        width: Width of each tile, pixels.
        pixels: Pixels of each tile, row by row. Shape `(tiles, height * width)`.
        starts: Whether a pixel starts a run: it differs from the one before. Shape of `pixels`.
        runs: Number of runs of equal pixels in each tile. Shape `(tiles,)`.
    """

    numbers: NDArray[np.intp]
    height: int
    width: int
    pixels: WorkingPixels
    starts: NDArray[np.bool_]
    runs: NDArray[np.intp]

    @property
    def area(self) -> int:
        """Number of pixels of each tile."""
        return self.height * self.width

    def palettes(self, limit: int) -> list[WorkingPixels | None]:
        """Return the colours of each tile in ascending order. None for a tile with more than `limit`."""
        found: list[WorkingPixels | None] = [None] * len(self.runs)
        few = np.flatnonzero(~self._has_more_than(limit))
        if not len(few):
            return found
        values = self.pixels[few][self.starts[few]]
        ends = np.cumsum(self.runs[few])
        for tile, first, last in zip(few.tolist(), [0, *ends.tolist()], ends.tolist(), strict=False):
            colours = _distinct(values[first:last])
            if len(colours) <= limit:
                found[tile] = colours
        return found

    def _has_more_than(self, limit: int) -> NDArray[np.bool_]:
        """Return which tiles surely have more than `limit` colours. Other tiles can have more too."""
        many = np.zeros(len(self.runs), dtype=np.bool_)
        unclear = np.flatnonzero(self.runs > limit)
        if len(unclear):
            sample = np.sort(self.pixels[unclear, :: max(1, self.area // _SAMPLES)], axis=1)
            many[unclear] = 1 + np.count_nonzero(sample[:, 1:] != sample[:, :-1], axis=1) > limit
        return many


def columns_of(width: int) -> int:
    """Return the number of tiles across a rectangle of this width. It also works for heights."""
    return -(-width // ZRLE_TILE)


def tile_groups(work: WorkingPixels) -> Iterator[TileGroup]:
    """Yield all tiles of a rectangle: the full ones, the narrow ones, the low ones, and the corner one.

    Args:
        work: Shape `(height, width)`, at least 1x1.
    """
    height, width = work.shape
    columns = columns_of(width)
    for top, bottom, tile_height in _spans(height):
        for left, right, tile_width in _spans(width):
            down, across = (bottom - top) // tile_height, (right - left) // tile_width
            cut = work[top:bottom, left:right].reshape(down, tile_height, across, tile_width)
            pixels = cut.swapaxes(1, 2).reshape(down * across, tile_height * tile_width)
            first = top // ZRLE_TILE * columns + left // ZRLE_TILE
            numbers = first + columns * np.arange(down)[:, None] + np.arange(across)
            yield _group(numbers.ravel(), tile_height, tile_width, pixels)


def index_of(palette: WorkingPixels, values: WorkingPixels) -> NDArray[np.uint8]:
    """Return each value's index in a palette.

    Args:
        palette: Shape `(colours,)`, at most 256 values, each less than 2**24.
        values: Any shape. All values are in the palette.
    """
    table = _scratch.table
    table[palette] = np.arange(len(palette), dtype=np.uint8)
    indices: NDArray[np.uint8] = table[values]
    return indices


class _Scratch(threading.local):
    """A table by colour, one per encoding thread. It is never cleared: only entries just written are read."""

    def __init__(self) -> None:
        self.table: NDArray[np.uint8] = np.empty(1 << 24, dtype=np.uint8)


_scratch = _Scratch()


def _spans(length: int) -> Iterator[tuple[int, int, int]]:
    """Yield the part of a length that holds full tiles, then the rest: start, end, and size of its tiles."""
    whole = length - length % ZRLE_TILE
    if whole:
        yield 0, whole, ZRLE_TILE
    if whole < length:
        yield whole, length, length - whole


def _group(numbers: NDArray[np.intp], height: int, width: int, pixels: WorkingPixels) -> TileGroup:
    starts = np.ones(pixels.shape, dtype=np.bool_)
    np.not_equal(pixels[:, 1:], pixels[:, :-1], out=starts[:, 1:])
    return TileGroup(numbers, height, width, pixels, starts, np.count_nonzero(starts, axis=1))


def _distinct(values: WorkingPixels) -> WorkingPixels:
    # np.unique uses hashes, which is ten times slower for the few hundred values of a tile.
    ordered = np.sort(values)
    first = np.ones(len(ordered), dtype=np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return ordered[first]
