"""Tiles: a rectangle cut into squares of 64 pixels, and what each holds: runs and colours."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vramtap.rfb.convert import Work

TILE: Final = 64
"""Pixels a side. ZRLE prescribes it (RFC 6143, 7.7.5); Tight takes it over."""
_SAMPLES: Final = 512
"""Pixels of a tile looked at first: if these have too many colours, all have, at an eighth of the cost."""


@dataclass(frozen=True, slots=True)
class TileGroup:
    """Tiles of one size, as they come out of the inside or an edge of a rectangle.

    Args:
        numbers: Shape `(tiles,)`: each tile's place in the rectangle, row by row.
        height: Of each, pixels.
        width: Of each, pixels.
        pixels: Shape `(tiles, height * width)`: each tile's pixels, row by row.
        starts: The same shape: where a pixel differs from the one before it in its tile.
        runs: Shape `(tiles,)`: how many runs of equal pixels each has.
    """

    numbers: NDArray[np.intp]
    height: int
    width: int
    pixels: Work
    starts: NDArray[np.bool_]
    runs: NDArray[np.intp]

    @property
    def area(self) -> int:
        """Pixels of each tile."""
        return self.height * self.width

    def palettes(self, limit: int) -> list[Work | None]:
        """The colours of each tile in ascending order; None where there are more than `limit`."""
        found: list[Work | None] = [None] * len(self.runs)
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
        """True only for tiles that have more than so many colours; not for all of them."""
        many = np.zeros(len(self.runs), dtype=np.bool_)
        unclear = np.flatnonzero(self.runs > limit)
        if len(unclear):
            sample = np.sort(self.pixels[unclear, :: max(1, self.area // _SAMPLES)], axis=1)
            many[unclear] = 1 + np.count_nonzero(sample[:, 1:] != sample[:, :-1], axis=1) > limit
        return many


def columns_of(width: int) -> int:
    """Tiles in a row of a rectangle this wide."""
    return -(-width // TILE)


def tile_groups(work: Work) -> Iterator[TileGroup]:
    """All tiles of a rectangle: those of full size, then the narrow, the low, and the corner one.

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
            first = top // TILE * columns + left // TILE
            numbers = first + columns * np.arange(down)[:, None] + np.arange(across)
            yield _group(numbers.ravel(), tile_height, tile_width, pixels)


def index_of(palette: Work, values: Work) -> NDArray[np.uint8]:
    """Each value's place in a palette.

    Args:
        palette: Shape `(colours,)`, at most 256, each less than 2**24.
        values: Any shape; all of them are in the palette.
    """
    table = _scratch.table
    table[palette] = np.arange(len(palette), dtype=np.uint8)
    indices: NDArray[np.uint8] = table[values]
    return indices


class _Scratch(threading.local):
    """A table by colour for each encoding thread. Never cleared: only entries just written are read."""

    def __init__(self) -> None:
        self.table: NDArray[np.uint8] = np.empty(1 << 24, dtype=np.uint8)


_scratch = _Scratch()


def _spans(length: int) -> Iterator[tuple[int, int, int]]:
    """First and last pixel of what is cut into whole tiles, and of what is left, with the size of a tile."""
    whole = length - length % TILE
    if whole:
        yield 0, whole, TILE
    if whole < length:
        yield whole, length, length - whole


def _group(numbers: NDArray[np.intp], height: int, width: int, pixels: Work) -> TileGroup:
    starts = np.ones(pixels.shape, dtype=np.bool_)
    np.not_equal(pixels[:, 1:], pixels[:, :-1], out=starts[:, 1:])
    return TileGroup(numbers, height, width, pixels, starts, np.count_nonzero(starts, axis=1))


def _distinct(values: Work) -> Work:
    # np.unique hashes, and is ten times slower on the few hundred values of a tile.
    ordered = np.sort(values)
    first = np.ones(len(ordered), dtype=np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return ordered[first]
