"""Blocks: the tiles of a rectangle sorted by what suits them, and like neighbours joined."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

import numpy as np

from vramtap.display.region import Rect
from vramtap.rfb.encodings.tiles import TILE, columns_of, tile_groups

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vramtap.rfb.convert import Work

MAX_COLOURS: Final = 256
"""Colours of an indexed block (rfbproto, Tight encoding)."""
MAX_WIDTH: Final = 2048
"""Pixels a row of a block (rfbproto, Tight encoding)."""
MAX_AREA: Final = 1 << 18
"""Pixels a block: even 4 bytes each, or the longest JPEG there can be, stay below the 4 MiB that
Tight's length can say."""
_PHOTO_COLOURS: Final = 64
"""Where JPEG is allowed: a busy tile with more colours than this goes into it rather than into a palette."""
_PHOTO_STEP: Final = 24
"""Where JPEG is allowed: the mean difference between neighbours in green, 0..255, up to which a tile is a
picture. Grainy film has about 10, text 30 and more, white noise 85."""
_SAMPLED_ROWS: Final = 4
"""Every so many rows are looked at to tell how smooth a tile is."""


class Kind(Enum):
    """What a block holds."""

    SOLID = auto()
    """One colour."""
    COLOURS = auto()
    """At most `MAX_COLOURS`."""
    PHOTO = auto()
    """Many, changing smoothly, and the client takes JPEG."""
    PIXELS = auto()
    """Anything else."""


@dataclass(slots=True)
class Block:
    """Tiles `[left, right)` x `[top, bottom)` of a rectangle that are encoded as one.

    Args:
        kind: What it holds.
        colours: For `SOLID` and `COLOURS`: which.
    """

    kind: Kind
    colours: frozenset[int]
    left: int
    right: int
    top: int
    bottom: int

    def pixels(self, width: int, height: int) -> Rect:
        """The pixels it covers in a rectangle of this size."""
        x, y = self.left * TILE, self.top * TILE
        return Rect(x, y, min(self.right * TILE, width) - x, min(self.bottom * TILE, height) - y)

    def joined(self, other: Block) -> Block | None:
        """The two as one, where they are side by side or one on the other, if that still suits both."""
        if self.kind is not other.kind:
            return None
        left, right = min(self.left, other.left), max(self.right, other.right)
        top, bottom = min(self.top, other.top), max(self.bottom, other.bottom)
        if (right - left) * TILE > MAX_WIDTH:
            return None
        colours = self.colours
        if self.kind is Kind.SOLID:
            if self.colours != other.colours:
                return None
        elif (right - left) * (bottom - top) * TILE * TILE > MAX_AREA:
            return None
        elif self.colours != other.colours:
            colours = self.colours | other.colours
            # Two colours take one bit a pixel, more take eight.
            two = len(self.colours) == 2 or len(other.colours) == 2
            if len(colours) > MAX_COLOURS or (two and len(colours) > 2):
                return None
        return Block(self.kind, colours, left, right, top, bottom)


def blocks(work: Work, pixels: NDArray[np.uint32], jpeg: bool) -> list[Block]:
    """Cut a rectangle into blocks.

    Args:
        work: Shape `(height, width)`: what is compared.
        pixels: The same shape, `0x00RRGGBB`: what JPEG would show.
        jpeg: Whether there may be blocks of `PHOTO`.

    Returns:
        Disjoint blocks that cover it.
    """
    height, width = work.shape
    rows, columns = columns_of(height), columns_of(width)
    tiles = _tiles(work, pixels, jpeg, rows, columns)
    done: list[Block] = []
    above: dict[tuple[int, int], Block] = {}
    for row in range(rows):
        here: dict[tuple[int, int], Block] = {}
        for run in _runs(tiles[row * columns : (row + 1) * columns]):
            place = run.left, run.right
            over = above.pop(place, None)
            joined = over.joined(run) if over is not None else None
            if over is not None and joined is None:
                done.append(over)
            here[place] = joined or run
        done += above.values()
        above = here
    done += above.values()
    return done


def _runs(tiles: list[Block]) -> list[Block]:
    """Join what can be joined in one row of tiles."""
    runs = tiles[:1]
    for tile in tiles[1:]:
        joined = runs[-1].joined(tile)
        if joined is None:
            runs.append(tile)
        else:
            runs[-1] = joined
    return runs


def _tiles(work: Work, pixels: NDArray[np.uint32], jpeg: bool, rows: int, columns: int) -> list[Block]:
    """A block for each tile, row by row."""
    tiles: list[Block | None] = [None] * (rows * columns)
    smooth: NDArray[np.bool_] | None = None
    for group in tile_groups(work):
        palettes = group.palettes(MAX_COLOURS)
        busy = (group.runs > group.area // 2).tolist()
        for number, palette, is_busy in zip(group.numbers.tolist(), palettes, busy, strict=True):
            row, column = divmod(number, columns)
            colours = frozenset[int]() if palette is None else frozenset[int](palette.tolist())
            kind = Kind.PIXELS if palette is None else Kind.SOLID if len(colours) == 1 else Kind.COLOURS
            if jpeg and (palette is None or (is_busy and len(colours) > _PHOTO_COLOURS)):
                smooth = _smooth(pixels) if smooth is None else smooth
                if smooth[row, column]:
                    kind, colours = Kind.PHOTO, frozenset()
            tiles[number] = Block(kind, colours, column, column + 1, row, row + 1)
    return [tile for tile in tiles if tile is not None]


def _smooth(pixels: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """For each tile, shape `(rows, columns)`: whether neighbours differ little on average."""
    green = pixels.view(np.uint8).reshape(*pixels.shape, 4)[::_SAMPLED_ROWS, :, 1]
    height, width = green.shape
    step = np.zeros((height, width), dtype=np.uint8)
    left, right = green[:, :-1], green[:, 1:]
    np.subtract(np.maximum(left, right), np.minimum(left, right), out=step[:, 1:])
    columns = np.arange(0, width, TILE)
    rows = np.arange(0, height, TILE // _SAMPLED_ROWS)
    total = np.add.reduceat(np.add.reduceat(step, columns, axis=1, dtype=np.uint32), rows, axis=0)
    counts = np.outer(np.diff(rows, append=height), np.diff(columns, append=width))
    smooth: NDArray[np.bool_] = total <= counts * _PHOTO_STEP
    return smooth
