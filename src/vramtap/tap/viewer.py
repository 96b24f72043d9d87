"""Viewer: a consumer of damage, and its backlog."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

from vramtap.display.backlog import DamageBacklog
from vramtap.display.damage import Damage
from vramtap.display.region import Region
from vramtap.errors import TargetGone

if TYPE_CHECKING:
    from types import TracebackType

    from vramtap.tap.tap import Tap


class Viewer:
    """A consumer of damage, and its backlog. A context manager: the tap gives it damage while it is entered.

    A viewer asks when it wants more. While it does not ask, it costs nothing.

    Args:
        tap: Tap of the damage.
        name: For log lines.
    """

    def __init__(self, tap: Tap, name: str) -> None:
        self._tap = tap
        self.name = name
        self.backlog: DamageBacklog = DamageBacklog(tap.screen.width, tap.screen.height)
        self._news = asyncio.Event()

    def __enter__(self) -> Self:
        """Join the tap. The backlog is the whole screen."""
        self.backlog = DamageBacklog(self._tap.screen.width, self._tap.screen.height)
        self._tap.join(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the tap."""
        self._tap.leave(self)

    def add(self, damage: Damage) -> None:
        """Add damage to the backlog. The tap calls this; it never blocks."""
        self.backlog.add(damage)
        self._news.set()

    def wake(self) -> None:
        """Wake up a waiting viewer because the tap has ended."""
        self._news.set()

    @property
    def waits(self) -> bool:
        """Whether the backlog is empty."""
        return not self.backlog and not self.backlog.resized

    async def changed(self) -> None:
        """Wait until the backlog is not empty and the screen is not stale.

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


class Watcher(Viewer):
    """A viewer that takes whole `Damage` objects, merged while it is busy."""

    def __init__(self, tap: Tap, name: str) -> None:
        super().__init__(tap, name)
        self._damage: Damage | None = None

    def add(self, damage: Damage) -> None:
        """Merge new damage with the damage not taken yet."""
        self._damage = damage if self._damage is None else _merged(self._damage, damage)
        self._news.set()

    @property
    def waits(self) -> bool:
        """Whether there is no damage to take."""
        return self._damage is None

    async def next(self) -> Damage:
        """Wait for damage and take it.

        Raises:
            TargetGone: the target has ended.
        """
        while self._damage is None:
            try:
                await self.changed()
            except TargetGone:
                # The target's last change may have come together with its end.
                if self._damage is None:
                    raise
        damage, self._damage = self._damage, None
        return damage


def _merged(before: Damage, after: Damage) -> Damage:
    """Return both damages as one, for the screen after the second; rounded outward to tiles."""
    region = Region(after.width, after.height)
    resized = before.resized or after.resized
    if resized:
        region.fill()
    else:
        for rect in (*before.rects, *after.rects):
            region.add(rect)
    pages = before.pages + after.pages
    return Damage(after.width, after.height, tuple(region.rects()), resized=resized, pages=pages)
