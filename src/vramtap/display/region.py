"""Rectangles, and sets of pixels rounded outward to a grid of tiles so that they stay small."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

TILE: Final = 16
"""Pixels a side of a region's tile: Tight and ZRLE encode in multiples of it, and 1920x1080 needs 8 KB."""


class Rect(NamedTuple):
    """A rectangle of pixels, half-open: columns `[x, right)`, rows `[y, bottom)`."""

    x: int
    y: int
    width: int
    height: int

    @property
    def right(self) -> int:
        """First column past it."""
        return self.x + self.width

    @property
    def bottom(self) -> int:
        """First row past it."""
        return self.y + self.height

    @property
    def area(self) -> int:
        """Pixels in it."""
        return self.width * self.height

    @property
    def slices(self) -> tuple[slice, slice]:
        """What cuts it out of an array of shape `(height, width)`."""
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)

    def intersect(self, other: Rect) -> Rect | None:
        """The pixels in both; None if there are none."""
        x, y = max(self.x, other.x), max(self.y, other.y)
        width, height = min(self.right, other.right) - x, min(self.bottom, other.bottom) - y
        return Rect(x, y, width, height) if width > 0 and height > 0 else None

    def contains(self, other: Rect) -> bool:
        """Whether every pixel of `other` is in it."""
        return (
            self.x <= other.x
            and self.y <= other.y
            and other.right <= self.right
            and other.bottom <= self.bottom
        )

    def shift(self, right: int, down: int) -> Rect:
        """The same rectangle, that many pixels further right and down."""
        return Rect(self.x + right, self.y + down, self.width, self.height)


def bounding_box(rects: list[Rect] | tuple[Rect, ...]) -> Rect | None:
    """The smallest rectangle that contains all of these; None for none."""
    if not rects:
        return None
    x, y = min(rect.x for rect in rects), min(rect.y for rect in rects)
    right, bottom = max(rect.right for rect in rects), max(rect.bottom for rect in rects)
    return Rect(x, y, right - x, bottom - y)


def boxes(mask: NDArray[np.bool_], limit: int | None = None) -> list[Rect]:
    """Disjoint boxes that cover what is true: runs of each row, equal runs of following rows joined.

    Args:
        mask: Shape `(rows, columns)`.
        limit: At most this many boxes (at least one). Where exact ones are more, cells are joined two
            by two in both directions until they are few enough, and boxes then cover false cells too.

    Returns:
        Boxes in cells, inside the mask, ordered by row and column.
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
    """A quarter as many cells, each true if any of the four it stands for is."""
    rows, columns = mask.shape
    even = np.zeros((rows + rows % 2, columns + columns % 2), dtype=np.bool_)
    even[:rows, :columns] = mask
    lines: NDArray[np.bool_] = even[0::2] | even[1::2]
    return lines[:, 0::2] | lines[:, 1::2]


def _exact_boxes(mask: NDArray[np.bool_]) -> list[Rect]:
    rows, columns = mask.shape
    padded = np.zeros((rows, columns + 2), dtype=np.bool_)
    padded[:, 1:-1] = mask
    # Within a row edges come as start, end, start, end: reading every second one pairs them up.
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
    """A set of pixels of one screen, rounded outward to tiles: bounded memory whatever is added.

    Args:
        width: Of the screen, pixels.
        height: Of the screen, pixels.
    """

    __slots__ = ("_grid", "height", "width")

    def __init__(self, width: int, height: int) -> None:
        if width < 0 or height < 0:
            raise ValueError(f"region of {width}x{height} pixels")
        self.width = width
        self.height = height
        self._grid: NDArray[np.bool_] = np.zeros((-(-height // TILE), -(-width // TILE)), dtype=np.bool_)

    @property
    def screen(self) -> Rect:
        """The whole screen."""
        return Rect(0, 0, self.width, self.height)

    @property
    def area(self) -> int:
        """Pixels in the set; tiles that the screen's edge cuts count what is inside."""
        rows, columns = self._grid.shape
        heights = np.minimum(TILE, self.height - TILE * np.arange(rows))
        widths = np.minimum(TILE, self.width - TILE * np.arange(columns))
        return int(heights @ (self._grid @ widths))

    def round_out(self, rect: Rect) -> Rect | None:
        """The tiles that hold any pixel of `rect`, as one rectangle inside the screen; None for none."""
        clipped = rect.intersect(self.screen)
        if clipped is None:
            return None
        x, y = clipped.x - clipped.x % TILE, clipped.y - clipped.y % TILE
        right = min(self.width, -(-clipped.right // TILE) * TILE)
        bottom = min(self.height, -(-clipped.bottom // TILE) * TILE)
        return Rect(x, y, right - x, bottom - y)

    def add(self, rect: Rect) -> None:
        """Put every tile that holds a pixel of `rect` into the set; what is off the screen is ignored."""
        tiles = self._tiles(rect)
        if tiles is not None:
            self._grid[tiles] = True

    def add_region(self, other: Region) -> None:
        """Put everything of another region into the set.

        Raises:
            ValueError: it is of a screen of another size.
        """
        if (other.width, other.height) != (self.width, self.height):
            raise ValueError(
                f"region of {other.width}x{other.height} pixels put into one of {self.width}x{self.height}"
            )
        self._grid |= other._grid

    def remove(self, rect: Rect) -> None:
        """Take out the tiles that lie wholly in `rect`; of one cut by the screen's edge, what is inside."""
        clipped = rect.intersect(self.screen)
        if clipped is None:
            return
        right = self._grid.shape[1] if clipped.right == self.width else clipped.right // TILE
        bottom = self._grid.shape[0] if clipped.bottom == self.height else clipped.bottom // TILE
        self._grid[-(-clipped.y // TILE) : bottom, -(-clipped.x // TILE) : right] = False

    def rects(self, within: Rect | None = None, limit: int | None = None) -> list[Rect]:
        """The set as disjoint rectangles inside the screen, ordered by row and column.

        Args:
            within: Only the pixels of the set in here.
            limit: At most this many rectangles, which then may cover pixels that are not in the set.
        """
        clip = self.screen if within is None else within.intersect(self.screen)
        tiles = None if clip is None else self._tiles(clip)
        if clip is None or tiles is None:
            return []
        top, left = tiles[0].start * TILE, tiles[1].start * TILE
        found = (
            Rect(left + x * TILE, top + y * TILE, width * TILE, height * TILE).intersect(clip)
            for x, y, width, height in boxes(self._grid[tiles], limit)
        )
        return [rect for rect in found if rect is not None]

    def intersects(self, rect: Rect) -> bool:
        """Whether a tile of the set holds any pixel of `rect`."""
        tiles = self._tiles(rect)
        return tiles is not None and bool(self._grid[tiles].any())

    def clear(self) -> None:
        """Take everything out."""
        self._grid[:] = False

    def fill(self) -> None:
        """Put the whole screen in."""
        self._grid[:] = True

    def copy(self) -> Region:
        """A region of its own with the same pixels."""
        other = Region(self.width, self.height)
        other._grid[:] = self._grid
        return other

    def _tiles(self, rect: Rect) -> tuple[slice, slice] | None:
        """The part of the grid that holds pixels of `rect`."""
        clipped = rect.intersect(self.screen)
        if clipped is None:
            return None
        return (
            slice(clipped.y // TILE, -(-clipped.bottom // TILE)),
            slice(clipped.x // TILE, -(-clipped.right // TILE)),
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
