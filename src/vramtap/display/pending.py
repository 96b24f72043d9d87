"""Pending: what one viewer has not been sent yet, in bounded memory however slow it is."""

from __future__ import annotations

from typing import Final, NamedTuple

from vramtap.display.damage import Damage, Move
from vramtap.display.region import Rect, Region

MAX_RECTS: Final = 1024
"""Rectangles in one update. RFB counts them in 16 bits (RFC 6143, 7.6.1); past this many, joining
neighbours costs a viewer less than the headers do."""


class Update(NamedTuple):
    """What to send: the moves, in order, on the viewer's own pixels; then the rects of the screen now."""

    moves: tuple[Move, ...]
    rects: tuple[Rect, ...]


class Pending:
    """What one viewer has not been sent: at first the whole screen.

    A viewer that applies an update's moves to what it has, then fills its rects from the current
    screen, has exactly the screen wherever nothing is left pending.

    Args:
        width: Of the screen, pixels.
        height: Of the screen, pixels.
    """

    # Kept true by every method: outside `_region`, the screen is what the viewer has after `_moves`.
    # `take` hands the moves out or gives them up, so while there are any, the viewer's pixels are
    # those of the moment they were added.

    __slots__ = ("_moves", "_region", "resized")

    resized: bool
    """The size changed and the viewer has not been told: see `accept_size`."""

    def __init__(self, width: int, height: int) -> None:
        self._region = Region(width, height)
        self._region.fill()
        self._moves: tuple[Move, ...] = ()
        self.resized = False

    @property
    def width(self) -> int:
        """Of the screen, pixels."""
        return self._region.width

    @property
    def height(self) -> int:
        """Of the screen, pixels."""
        return self._region.height

    def add(self, damage: Damage) -> None:
        """The screen changed.

        Raises:
            ValueError: the damage is of a screen of another size and does not say so.
        """
        if damage.resized:
            self._region = Region(damage.width, damage.height)
            self._region.fill()
            self._moves = ()
            self.resized = True
            return
        if (damage.width, damage.height) != (self.width, self.height):
            raise ValueError(
                f"damage of a {damage.width}x{damage.height} screen added to pending of "
                f"{self.width}x{self.height}, and not marked resized"
            )
        moves = damage.moves if _order_is_free(damage.moves) else ()
        if len(moves) == len(self._moves) == 1 and self._add_joined(self._moves[0], moves[0], damage):
            return
        if moves and self._moves:
            self._settle()
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

    def want(self, area: Rect) -> None:
        """The viewer does not have this area, whatever it was sent (RFB: a non-incremental request)."""
        self._settle()
        self._region.add(area)

    def take(self, area: Rect, moves: bool) -> Update:
        """What is pending in an area, and forget it.

        Args:
            area: What the viewer asks for. It is rounded outward to tiles: a tile sent in part would
                stay pending for its other part, and be sent again at every request, for ever.
            moves: Whether the viewer can copy pixels it has.

        Returns:
            Rects inside the rounded area and the screen; moves only if the area holds all they write.
        """
        rounded = self._region.round_out(area)
        if rounded is None:
            return Update((), ())
        taken: tuple[Move, ...] = ()
        if moves and all(rounded.contains(move.destination) for move in self._moves):
            taken, self._moves = self._moves, ()
        self._settle()
        rects = self._region.rects(rounded, MAX_RECTS)
        self._region.remove(rounded)
        return Update(taken, tuple(rects))

    def touches(self, area: Rect) -> bool:
        """Whether `take` of this area would give anything."""
        rounded = self._region.round_out(area)
        if rounded is None:
            return False
        return self._region.intersects(rounded) or any(
            rounded.intersect(move.destination) is not None for move in self._moves
        )

    def forget(self) -> None:
        """The viewer has the screen as it is now, or wants changes from here on only."""
        self._region.clear()
        self._moves = ()

    def accept_size(self) -> None:
        """The viewer has been told the size."""
        self.resized = False

    def __bool__(self) -> bool:
        return bool(self._moves) or bool(self._region)

    def _settle(self) -> None:
        """Give up the moves: what they would have brought is pending like any change."""
        for move in self._moves:
            self._region.add(move.destination)
        self._moves = ()

    def _add_joined(self, first: Move, second: Move, damage: Damage) -> bool:
        """Join a move that was not fetched with the next one, so that a scroll stays one for slow viewers.

        Returns:
            False, with nothing done, if too little of the first was moved on by the second.
        """
        passing = first.destination.intersect(second.source)
        if passing is None:
            return False
        stale = self._region.rects(passing, MAX_RECTS)
        if 2 * (passing.area - sum(rect.area for rect in stale)) < first.source.area:
            return False
        self._settle()
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
    """Whether one after the other they do what they do at once: none reads what an earlier one wrote."""
    return all(
        earlier.destination.intersect(later.source) is None
        for at, later in enumerate(moves)
        for earlier in moves[:at]
    )
