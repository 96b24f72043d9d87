"""Blocks for Tight: the tiles of a rectangle, classified by content. Neighbours of one kind are joined."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

import numpy as np

from vramtap.display.region import Rect
from vramtap.rfb.encodings.tiles import ZRLE_TILE, columns_of, tile_groups

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vramtap.rfb.convert import WorkingPixels

MAX_COLOURS: Final = 256
"""Maximum number of colours of an indexed block (rfbproto, Tight encoding)."""
MAX_WIDTH: Final = 2048
"""Maximum width of a block, pixels (rfbproto, Tight encoding)."""
MAX_AREA: Final = 1 << 18
"""Maximum number of pixels in a block. Four bytes for each, or the longest possible JPEG, are less than the
4 MiB that Tight's length field can hold."""
_PHOTO_COLOURS: Final = 64
"""With JPEG allowed, a tile of many runs with more colours than this can become JPEG instead of a palette."""
_PHOTO_STEP: Final = 24
"""With JPEG allowed, a tile becomes JPEG up to this mean difference between neighbours in green, 0..255.
Grainy film has about 10, text 30 and more, white noise 85."""
_SAMPLED_ROWS: Final = 4
"""The difference between neighbours is measured on every fourth row."""


class BlockKind(Enum):
    """Content of a block."""

    SOLID = auto()
    """One colour."""
    COLOURS = auto()
    """At most `MAX_COLOURS` colours."""
    PHOTO = auto()
    """Many colours that change smoothly. The client allows JPEG."""
    PIXELS = auto()
    """Any other pixels."""


@dataclass(slots=True)
class Block:
    """Tiles of a rectangle that are encoded as one RFB rectangle.

    Args:
        kind: Content of the tiles.
        colours: The colours of a `SOLID` or `COLOURS` block. Empty for other kinds.
        left: First column, tiles.
        right: Column after the last, tiles.
        top: First row, tiles.
        bottom: Row after the last, tiles.
    """

    kind: BlockKind
    colours: frozenset[int]
    left: int
    right: int
    top: int
    bottom: int

    def rect(self, width: int, height: int) -> Rect:
        """Return the block's pixels.

        Args:
            width: Width of the whole rectangle, pixels.
            height: Height of the whole rectangle, pixels.
        """
        x, y = self.left * ZRLE_TILE, self.top * ZRLE_TILE
        return Rect(x, y, min(self.right * ZRLE_TILE, width) - x, min(self.bottom * ZRLE_TILE, height) - y)

    def join(self, other: Block) -> Block | None:
        """Return this block joined with an adjacent one. None if one block does not suit both."""
        if self.kind is not other.kind:
            return None
        left, right = min(self.left, other.left), max(self.right, other.right)
        top, bottom = min(self.top, other.top), max(self.bottom, other.bottom)
        if (right - left) * ZRLE_TILE > MAX_WIDTH:
            return None
        colours = self.colours
        if self.kind is BlockKind.SOLID:
            if self.colours != other.colours:
                return None
        elif (right - left) * (bottom - top) * ZRLE_TILE * ZRLE_TILE > MAX_AREA:
            return None
        elif self.colours != other.colours:
            colours = self.colours | other.colours
            # Two colours take one bit per pixel, more take eight.
            two = len(self.colours) == 2 or len(other.colours) == 2
            if len(colours) > MAX_COLOURS or (two and len(colours) > 2):
                return None
        return Block(self.kind, colours, left, right, top, bottom)


def blocks(work: WorkingPixels, pixels: NDArray[np.uint32], *, jpeg: bool) -> list[Block]:
    """Cut a rectangle into blocks.

    Args:
        work: Pixels to compare, shape `(height, width)`.
        pixels: Pixels for JPEG, the same shape, `0x00RRGGBB`.
        jpeg: Whether `PHOTO` blocks are allowed.

    Returns:
        Disjoint blocks that cover the rectangle.
    """
    height, width = work.shape
    rows, columns = columns_of(height), columns_of(width)
    tiles = _tiles(work, pixels, rows, columns, jpeg=jpeg)
    done: list[Block] = []
    above: dict[tuple[int, int], Block] = {}
    for row in range(rows):
        here: dict[tuple[int, int], Block] = {}
        for run in _runs(tiles[row * columns : (row + 1) * columns]):
            place = run.left, run.right
            over = above.pop(place, None)
            joined = over.join(run) if over is not None else None
            if over is not None and joined is None:
                done.append(over)
            here[place] = joined or run
        done += above.values()
        above = here
    done += above.values()
    return done


def _runs(tiles: list[Block]) -> list[Block]:
    """Join the neighbours in one row of tiles."""
    runs = tiles[:1]
    for tile in tiles[1:]:
        joined = runs[-1].join(tile)
        if joined is None:
            runs.append(tile)
        else:
            runs[-1] = joined
    return runs


def _tiles(
    work: WorkingPixels, pixels: NDArray[np.uint32], rows: int, columns: int, *, jpeg: bool
) -> list[Block]:
    """Return one block for each tile, row by row."""
    tiles: list[Block | None] = [None] * (rows * columns)
    smooth: NDArray[np.bool_] | None = None
    for group in tile_groups(work):
        palettes = group.palettes(MAX_COLOURS)
        busy = (group.runs > group.area // 2).tolist()
        for number, palette, is_busy in zip(group.numbers.tolist(), palettes, busy, strict=True):
            row, column = divmod(number, columns)
            colours = frozenset[int]() if palette is None else frozenset[int](palette.tolist())
            kind = (
                BlockKind.PIXELS
                if palette is None
                else BlockKind.SOLID
                if len(colours) == 1
                else BlockKind.COLOURS
            )
            if jpeg and (palette is None or (is_busy and len(colours) > _PHOTO_COLOURS)):
                smooth = _smooth(pixels) if smooth is None else smooth
                if smooth[row, column]:
                    kind, colours = BlockKind.PHOTO, frozenset()
            tiles[number] = Block(kind, colours, column, column + 1, row, row + 1)
    return [tile for tile in tiles if tile is not None]


def _smooth(pixels: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Return whether neighbouring pixels differ little on average, for each tile.

    Args:
        pixels: Shape `(height, width)`, `0x00RRGGBB`.

    Returns:
        Shape `(rows, columns)` of tiles.
    """
    green = pixels.view(np.uint8).reshape(*pixels.shape, 4)[::_SAMPLED_ROWS, :, 1]
    height, width = green.shape
    step = np.zeros((height, width), dtype=np.uint8)
    left, right = green[:, :-1], green[:, 1:]
    np.subtract(np.maximum(left, right), np.minimum(left, right), out=step[:, 1:])
    columns = np.arange(0, width, ZRLE_TILE)
    rows = np.arange(0, height, ZRLE_TILE // _SAMPLED_ROWS)
    total = np.add.reduceat(np.add.reduceat(step, columns, axis=1, dtype=np.uint32), rows, axis=0)
    counts = np.outer(np.diff(rows, append=height), np.diff(columns, append=width))
    smooth: NDArray[np.bool_] = total <= counts * _PHOTO_STEP
    return smooth
