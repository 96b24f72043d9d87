"""Damage: the pixels of the screen that changed, and which of them only moved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from vramtap.display.region import Rect, bounding_box


class Move(NamedTuple):
    """Pixels that moved from one place of the screen to another, for example in a scroll.

    Attributes:
        source: Where they were on the old screen.
        x: Left column of their new place, pixels.
        y: Top row of their new place, pixels.
    """

    source: Rect
    x: int
    y: int

    @property
    def destination(self) -> Rect:
        """Where they are on the new screen."""
        return Rect(self.x, self.y, self.source.width, self.source.height)

    @property
    def right(self) -> int:
        """Distance to the right, pixels. Negative if they moved left."""
        return self.x - self.source.x

    @property
    def down(self) -> int:
        """Distance down, pixels. Negative if they moved up."""
        return self.y - self.source.y


@dataclass(frozen=True, slots=True)
class Damage:
    """The difference between two states of the screen.

    A damage is true if anything changed. To cut the changed pixels out of the current screen:

        for rect in damage.rects:
            part = screen.pixels[rect.slices]

    Args:
        width: Width of the new screen, pixels.
        height: Height of the new screen, pixels.
        rects: Disjoint rectangles inside the screen. They cover every pixel that changed or moved.
        moves: A shorter form of part of `rects`. The old screen's pixels at each move's source equal the
            new screen's pixels at its destination. All moves read the old screen.
        resized: Whether the size changed. If so, `rects` covers the whole new screen.
        pages: Number of pages that were read to find the damage.
    """

    width: int
    height: int
    rects: tuple[Rect, ...] = ()
    moves: tuple[Move, ...] = ()
    resized: bool = False
    pages: int = 0

    @property
    def area(self) -> int:
        """Number of pixels in `rects`."""
        return sum(rect.area for rect in self.rects)

    @property
    def bounding_box(self) -> Rect | None:
        """The smallest rectangle that contains all of `rects`. None if there are none."""
        return bounding_box(self.rects)

    def __bool__(self) -> bool:
        return self.resized or bool(self.rects)
