"""Damage: which pixels of the screen really changed, and which of them only moved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from vramtap.display.region import Rect, bounding_box


class Move(NamedTuple):
    """Pixels that stood in `read_from` on the old screen and now stand with their corner at `(x, y)`."""

    source: Rect
    x: int
    y: int

    @property
    def destination(self) -> Rect:
        """Where they stand now."""
        return Rect(self.x, self.y, self.source.width, self.source.height)

    @property
    def right(self) -> int:
        """Pixels they went to the right; negative to the left."""
        return self.x - self.source.x

    @property
    def down(self) -> int:
        """Pixels they went down; negative up."""
        return self.y - self.source.y


@dataclass(frozen=True, slots=True)
class Damage:
    """What changed between two states of the screen.

    Args:
        width: Of the screen now, pixels.
        height: Of the screen now, pixels.
        rects: Disjoint, inside the screen; they cover every changed pixel, those that moved included.
        moves: A cheaper way to say part of `rects`: the pixels of the old screen, copied so, are exactly
            those of the new screen there.
        resized: The size changed: nothing of the old screen holds, `rects` is the whole new one.
        pages: How many pages were read to find it.
    """

    width: int
    height: int
    rects: tuple[Rect, ...] = ()
    moves: tuple[Move, ...] = ()
    resized: bool = False
    pages: int = 0

    @property
    def area(self) -> int:
        """Pixels in `rects`."""
        return sum(rect.area for rect in self.rects)

    @property
    def bounding_box(self) -> Rect | None:
        """The smallest rectangle with all of `rects` in it; None if nothing changed."""
        return bounding_box(self.rects)

    def __bool__(self) -> bool:
        return self.resized or bool(self.rects)
