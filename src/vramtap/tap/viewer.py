"""Viewer: whoever takes damage, with what it has not been given yet."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol, Self

from vramtap.display.damage import Damage
from vramtap.display.pending import Pending
from vramtap.display.region import Region
from vramtap.errors import TargetGone

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from types import TracebackType

    from vramtap.display.screen import Screen


class Source(Protocol):
    """What a viewer needs of the tap it looks through."""

    screen: Screen

    def wanted(self) -> AbstractContextManager[None]:
        """While inside, the tap looks."""
        ...

    async def fresh(self) -> None:
        """Make sure that the screen is not stale."""
        ...

    def check(self) -> None:
        """Raise `TargetGone` if it has ended."""
        ...

    def forget(self, viewer: Viewer) -> None:
        """The viewer has left."""
        ...


class Viewer:
    """Whoever takes damage. It asks when it wants more; while it does not ask, it costs nothing.

    Args:
        tap: What is watched.
        name: For log lines.
    """

    def __init__(self, tap: Source, name: str) -> None:
        self._tap = tap
        self.name = name
        self.pending = Pending(tap.screen.width, tap.screen.height)
        self._news = asyncio.Event()

    def add(self, damage: Damage) -> None:
        """The screen changed: called by the tap, never blocks."""
        self.pending.add(damage)
        self._news.set()

    def wake(self) -> None:
        """The tap has ended: whoever waits must look."""
        self._news.set()

    @property
    def waits(self) -> bool:
        """Whether there is nothing to take."""
        return not self.pending and not self.pending.resized

    async def changed(self) -> None:
        """Wait until something is pending, on a screen that is not stale.

        Raises:
            TargetGone: the target has ended.
        """
        await self._tap.fresh()
        with self._tap.wanted():
            while self.waits:
                self._tap.check()
                self._news.clear()
                await self._news.wait()
        self._tap.check()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tap.forget(self)


class Watcher(Viewer):
    """Gathers whole damages, merged while nobody takes them."""

    def __init__(self, tap: Source, name: str) -> None:
        super().__init__(tap, name)
        self._damage: Damage | None = None

    def add(self, damage: Damage) -> None:
        """Merge what is not taken yet with what is new."""
        self._damage = damage if self._damage is None else _merged(self._damage, damage)
        self._news.set()

    @property
    def waits(self) -> bool:
        """Whether there is nothing to take."""
        return self._damage is None

    async def next(self) -> Damage:
        """Wait for the next damage and take it.

        Raises:
            TargetGone: the target has ended.
        """
        while self._damage is None:
            try:
                await self.changed()
            except TargetGone:
                # The last thing it did may have come together with its end.
                if self._damage is None:
                    raise
        damage, self._damage = self._damage, None
        return damage


def _merged(before: Damage, after: Damage) -> Damage:
    """Both at once, of the screen as it is after the second; rounded outward to tiles."""
    region = Region(after.width, after.height)
    resized = before.resized or after.resized
    if resized:
        region.fill()
    else:
        for rect in (*before.rects, *after.rects):
            region.add(rect)
    pages = before.pages + after.pages
    return Damage(after.width, after.height, tuple(region.rects()), resized=resized, pages=pages)
