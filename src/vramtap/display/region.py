"""Rectangles, and regions: sets of pixels, rounded outward to tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

REGION_TILE: Final = 16
"""Side of a region's tile, pixels. Tight and ZRLE encode in multiples of it. A 1920x1080 region takes 8
KB."""


class Rect(NamedTuple):
    """A rectangle of pixels. Its ranges are half-open: columns `[x, right)`, rows `[y, bottom)`.

    Row 0 is the top row of the screen, column 0 the left one. The rectangle cuts a part out of an array:

        rect = Rect(x=10, y=20, width=30, height=40)  # columns 10 to 39, rows 20 to 59
        part = pixels[rect.slices]  # shape (40, 30), a view

    Attributes:
        x: Left column, pixels.
        y: Top row, pixels.
        width: Width, pixels.
        height: Height, pixels.
    """

    x: int
    y: int
    width: int
    height: int

    @property
    def right(self) -> int:
        """First column right of the rectangle."""
        return self.x + self.width

    @property
    def bottom(self) -> int:
        """First row below the rectangle."""
        return self.y + self.height

    @property
    def area(self) -> int:
        """Number of pixels."""
        return self.width * self.height

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index of the rectangle in an array of shape `(height, width)`: rows, then columns."""
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)

    def intersect(self, other: Rect) -> Rect | None:
        """Return the pixels that are in both rectangles, or None if there are none."""
        x, y = max(self.x, other.x), max(self.y, other.y)
        width, height = min(self.right, other.right) - x, min(self.bottom, other.bottom) - y
        return Rect(x, y, width, height) if width > 0 and height > 0 else None

    def contains(self, other: Rect) -> bool:
        """Return whether every pixel of `other` is in this rectangle."""
        return (
            self.x <= other.x
            and self.y <= other.y
            and other.right <= self.right
            and other.bottom <= self.bottom
        )

    def shift(self, right: int, down: int) -> Rect:
        """Return the rectangle moved by some pixels. Negative distances go left and up."""
        return Rect(self.x + right, self.y + down, self.width, self.height)


def bounding_box(rects: list[Rect] | tuple[Rect, ...]) -> Rect | None:
    """Return the smallest rectangle that contains all of `rects`. None if there are none."""
    if not rects:
        return None
    x, y = min(rect.x for rect in rects), min(rect.y for rect in rects)
    right, bottom = max(rect.right for rect in rects), max(rect.bottom for rect in rects)
    return Rect(x, y, right - x, bottom - y)


def boxes(mask: NDArray[np.bool_], limit: int | None = None) -> list[Rect]:
    """Return disjoint boxes that cover the true cells of a mask.

    A box is a run of cells in one row, joined with equal runs in the rows below it.

    Args:
        mask: Shape `(rows, columns)`.
        limit: Maximum number of boxes, at least one. If there are more, each 2x2 cells are joined into one,
            until the boxes are few enough. Then they cover false cells too.

    Returns:
        Boxes inside the mask, in cells, ordered by row and column.
    """
    rows, columns = mask.shape
    scale = 1
    found = _exact_boxes(mask)
    while limit is not None and len(found) > max(limit, 1):
        mask = _halve(mask)
        scale *= 2
        found = _exact_boxes(mask)
    if scale == 1:
        return found
    cells = Rect(0, 0, columns, rows)
    scaled = (Rect(x * scale, y * scale, w * scale, h * scale).intersect(cells) for x, y, w, h in found)
    return [box for box in scaled if box is not None]


def _halve(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Join each 2x2 cells into one, which is true if any of the four is."""
    rows, columns = mask.shape
    even = np.zeros((rows + rows % 2, columns + columns % 2), dtype=np.bool_)
    even[:rows, :columns] = mask
    lines: NDArray[np.bool_] = even[0::2] | even[1::2]
    return lines[:, 0::2] | lines[:, 1::2]


def _exact_boxes(mask: NDArray[np.bool_]) -> list[Rect]:
    rows, columns = mask.shape
    padded = np.zeros((rows, columns + 2), dtype=np.bool_)
    padded[:, 1:-1] = mask
    # In each row, the edges are start, end, start, end: even ones are starts, odd ones are ends.
    at_rows, at_columns = np.nonzero(padded[:, 1:] != padded[:, :-1])
    growing: dict[tuple[int, int], tuple[int, int]] = {}
    done: list[Rect] = []
    for row, start, end in zip(
        at_rows[::2].tolist(), at_columns[::2].tolist(), at_columns[1::2].tolist(), strict=True
    ):
        top, bottom = growing.get((start, end), (row, row))
        if bottom != row:
            done.append(Rect(start, top, end - start, bottom - top))
            top = row
        growing[start, end] = (top, row + 1)
    done += [Rect(start, top, end - start, bottom - top) for (start, end), (top, bottom) in growing.items()]
    done.sort(key=_by_row)
    return done


def _by_row(rect: Rect) -> tuple[int, int]:
    return rect.y, rect.x


class Region:
    """A set of pixels of one screen, rounded outward to tiles. Its memory does not grow with what is added.

    Args:
        width: Width of the screen, pixels.
        height: Height of the screen, pixels.

    Raises:
        ValueError: a size is negative.
    """

    __slots__ = ("_grid", "height", "width")

    def __init__(self, width: int, height: int) -> None:
        if width < 0 or height < 0:
            raise ValueError(f"region of {width}x{height} pixels")
        self.width: int = width
        self.height: int = height
        self._grid: NDArray[np.bool_] = np.zeros(
            (-(-height // REGION_TILE), -(-width // REGION_TILE)), dtype=np.bool_
        )

    @property
    def screen(self) -> Rect:
        """The whole screen."""
        return Rect(0, 0, self.width, self.height)

    @property
    def area(self) -> int:
        """Number of pixels in the set. A tile that the screen's edge cuts counts its part on the screen."""
        rows, columns = self._grid.shape
        heights = np.minimum(REGION_TILE, self.height - REGION_TILE * np.arange(rows))
        widths = np.minimum(REGION_TILE, self.width - REGION_TILE * np.arange(columns))
        return int(heights @ (self._grid @ widths))

    def round_out(self, rect: Rect) -> Rect | None:
        """Return the tiles that hold pixels of `rect`, as one rectangle inside the screen, or None."""
        clipped = rect.intersect(self.screen)
        if clipped is None:
            return None
        x, y = clipped.x - clipped.x % REGION_TILE, clipped.y - clipped.y % REGION_TILE
        right = min(self.width, -(-clipped.right // REGION_TILE) * REGION_TILE)
        bottom = min(self.height, -(-clipped.bottom // REGION_TILE) * REGION_TILE)
        return Rect(x, y, right - x, bottom - y)

    def add(self, rect: Rect) -> None:
        """Add every tile that holds a pixel of `rect`. The part of `rect` outside the screen is ignored."""
        tiles = self._tiles(rect)
        if tiles is not None:
            self._grid[tiles] = True

    def remove(self, rect: Rect) -> None:
        """Remove the tiles whose pixels on the screen are all in `rect`."""
        clipped = rect.intersect(self.screen)
        if clipped is None:
            return
        right = self._grid.shape[1] if clipped.right == self.width else clipped.right // REGION_TILE
        bottom = self._grid.shape[0] if clipped.bottom == self.height else clipped.bottom // REGION_TILE
        self._grid[-(-clipped.y // REGION_TILE) : bottom, -(-clipped.x // REGION_TILE) : right] = False

    def rects(self, within: Rect | None = None, limit: int | None = None) -> list[Rect]:
        """Return the set as disjoint rectangles inside the screen, ordered by row and column.

        Args:
            within: Return only the pixels in this rectangle. None means the whole screen.
            limit: Maximum number of rectangles. With a limit, they can cover pixels outside the set.
        """
        clip = self.screen if within is None else within.intersect(self.screen)
        tiles = None if clip is None else self._tiles(clip)
        if clip is None or tiles is None:
            return []
        top, left = tiles[0].start * REGION_TILE, tiles[1].start * REGION_TILE
        found = (
            Rect(
                left + x * REGION_TILE, top + y * REGION_TILE, width * REGION_TILE, height * REGION_TILE
            ).intersect(clip)
            for x, y, width, height in boxes(self._grid[tiles], limit)
        )
        return [rect for rect in found if rect is not None]

    def intersects(self, rect: Rect) -> bool:
        """Return whether a tile of the set holds a pixel of `rect`."""
        tiles = self._tiles(rect)
        return tiles is not None and bool(self._grid[tiles].any())

    def clear(self) -> None:
        """Remove everything."""
        self._grid[:] = False

    def fill(self) -> None:
        """Add the whole screen."""
        self._grid[:] = True

    def _tiles(self, rect: Rect) -> tuple[slice, slice] | None:
        """Return the part of the grid that holds pixels of `rect`. None if there is none."""
        clipped = rect.intersect(self.screen)
        if clipped is None:
            return None
        return (
            slice(clipped.y // REGION_TILE, -(-clipped.bottom // REGION_TILE)),
            slice(clipped.x // REGION_TILE, -(-clipped.right // REGION_TILE)),
        )

    def __bool__(self) -> bool:
        return bool(self._grid.any())

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Region)
            and (other.width, other.height) == (self.width, self.height)
            and np.array_equal(self._grid, other._grid)
        )

    def __repr__(self) -> str:
        return f"Region({self.width}, {self.height}, {[tuple(rect) for rect in self.rects()]})"
