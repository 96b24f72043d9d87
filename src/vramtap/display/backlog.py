"""Backlog of one viewer: the damage that it was not sent yet, in bounded memory."""

from __future__ import annotations

from typing import Final, NamedTuple

from vramtap.display.damage import Damage, Move
from vramtap.display.region import Rect, Region

MAX_RECTS: Final = 1024
"""Rectangles in one update. RFB counts them in 16 bits (RFC 6143, 7.6.1). Past this number, to join
neighbours costs a viewer less than the headers do."""


class ScreenUpdate(NamedTuple):
    """What one viewer is sent.

    Attributes:
        moves: Copies of the viewer's own pixels, to be applied first and in this order.
        rects: Rectangles to be filled from the current screen afterwards.
    """

    moves: tuple[Move, ...]
    rects: tuple[Rect, ...]


class DamageBacklog:
    """Damage that one viewer was not sent yet. A new backlog is the whole screen.

    A viewer applies an update's moves to its own pixels. Then it fills the update's rects from the
    current screen. After that its pixels equal the screen wherever the backlog is empty.

    Args:
        width: Width of the screen, pixels.
        height: Height of the screen, pixels.
    """

    # Invariant, kept by every method: outside `_region`, the screen equals the viewer's pixels after
    # `_moves`. `take` returns the moves or drops them. So while there are moves, the viewer's pixels are the
    # same as at the time when the moves were added.

    __slots__ = ("_moves", "_region", "resized")

    resized: bool
    """Whether the size changed since the last `accept_size`."""

    def __init__(self, width: int, height: int) -> None:
        self._region = Region(width, height)
        self._region.fill()
        self._moves: tuple[Move, ...] = ()
        self.resized = False

    @property
    def width(self) -> int:
        """Width of the screen, pixels."""
        return self._region.width

    @property
    def height(self) -> int:
        """Height of the screen, pixels."""
        return self._region.height

    def add(self, damage: Damage) -> None:
        """Add damage.

        Raises:
            ValueError: the damage is of a screen of another size, and is not marked as resized.
        """
        if damage.resized:
            self._region = Region(damage.width, damage.height)
            self._region.fill()
            self._moves = ()
            self.resized = True
            return
        if (damage.width, damage.height) != (self.width, self.height):
            raise ValueError(
                f"damage of a {damage.width}x{damage.height} screen added to a backlog of "
                f"{self.width}x{self.height}, and not marked resized"
            )
        moves = damage.moves if _order_is_free(damage.moves) else ()
        if len(moves) == len(self._moves) == 1 and self._add_joined(self._moves[0], moves[0], damage):
            return
        if moves and self._moves:
            self._drop_moves()
        stale = [
            rect.shift(move.right, move.down)
            for move in moves
            for rect in self._region.rects(move.source, MAX_RECTS)
        ]
        for rect in damage.rects:
            self._region.add(rect)
        if moves and 2 * sum(rect.area for rect in stale) < sum(move.source.area for move in moves):
            self._moves = moves
            for move in moves:
                self._region.remove(move.destination)
            for rect in stale:
                self._region.add(rect)

    def add_area(self, area: Rect) -> None:
        """Add an area that the viewer needs again in full (RFB: a request that is not incremental)."""
        self._drop_moves()
        self._region.add(area)

    def take(self, area: Rect, *, moves: bool) -> ScreenUpdate:
        """Return the backlog inside an area, and remove it.

        Args:
            area: The area that the viewer requests. It is rounded outward to tiles. A tile that was sent
                in part would stay in the backlog for its other part, and every request would send it again.
            moves: Whether the viewer can copy its own pixels.

        Returns:
            Rects inside the rounded area and the screen. Moves only if they write inside this area only.
        """
        rounded = self._region.round_out(area)
        if rounded is None:
            return ScreenUpdate((), ())
        taken: tuple[Move, ...] = ()
        if moves and all(rounded.contains(move.destination) for move in self._moves):
            taken, self._moves = self._moves, ()
        self._drop_moves()
        rects = self._region.rects(rounded, MAX_RECTS)
        self._region.remove(rounded)
        return ScreenUpdate(taken, tuple(rects))

    def touches(self, area: Rect) -> bool:
        """Return whether `take` of this area would return anything."""
        rounded = self._region.round_out(area)
        if rounded is None:
            return False
        return self._region.intersects(rounded) or any(
            rounded.intersect(move.destination) is not None for move in self._moves
        )

    def clear(self) -> None:
        """Remove everything: the viewer has the current screen, or wants later changes only."""
        self._region.clear()
        self._moves = ()

    def accept_size(self) -> None:
        """Reset `resized`: the viewer knows the current size."""
        self.resized = False

    def __bool__(self) -> bool:
        return bool(self._moves) or bool(self._region)

    def _drop_moves(self) -> None:
        """Drop the moves, and add their destinations as ordinary damage."""
        for move in self._moves:
            self._region.add(move.destination)
        self._moves = ()

    def _add_joined(self, first: Move, second: Move, damage: Damage) -> bool:
        """Join a move that the viewer did not take with the next one, so that a scroll stays one move.

        Returns:
            Whether the moves were joined. False, and nothing is changed, if the second move takes on
            too little of the first.
        """
        passing = first.destination.intersect(second.source)
        if passing is None:
            return False
        stale = self._region.rects(passing, MAX_RECTS)
        if 2 * (passing.area - sum(rect.area for rect in stale)) < first.source.area:
            return False
        self._drop_moves()
        for rect in damage.rects:
            self._region.add(rect)
        source = passing.shift(-first.right, -first.down)
        joined = Move(source, passing.x + second.right, passing.y + second.down)
        self._region.remove(joined.destination)
        for rect in stale:
            self._region.add(rect.shift(second.right, second.down))
        self._moves = (joined,) if (joined.right, joined.down) != (0, 0) else ()
        return True


def _order_is_free(moves: tuple[Move, ...]) -> bool:
    """Return whether the moves have the same effect one by one as all at once.

    They have it if no move reads pixels that an earlier one wrote.
    """
    return all(
        earlier.destination.intersect(later.source) is None
        for at, later in enumerate(moves)
        for earlier in moves[:at]
    )
