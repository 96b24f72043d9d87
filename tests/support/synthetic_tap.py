"""A tap without a target: a screen that tests draw on, and an input that writes down what it is given."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from vramtap.display.backlog import DamageBacklog
from vramtap.display.damage import Damage, Move
from vramtap.display.region import Rect
from vramtap.errors import TargetGone
from vramtap.keyboard.events import Input, KeyEvent, PointerEvent

if TYPE_CHECKING:
    from types import TracebackType

Pixels = NDArray[np.uint32]


class SyntheticScreen:
    """The pixels."""

    def __init__(self, pixels: Pixels) -> None:
        self.pixels = pixels

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])


class SyntheticTarget:
    """What takes input."""

    def __init__(self, taker: Input | None) -> None:
        self.input = taker


class SyntheticViewer:
    """A viewer of a `SyntheticTap`; behaves like the real one."""

    def __init__(self, tap: SyntheticTap) -> None:
        self._tap = tap
        self.backlog = DamageBacklog(tap.screen.width, tap.screen.height)
        self.news = asyncio.Event()
        self.asked = 0
        """How often `changed` was called."""

    async def changed(self) -> None:
        self.asked += 1
        self._tap.check()
        while not self.backlog and not self.backlog.resized:
            self.news.clear()
            await self.news.wait()
            self._tap.check()

    def __enter__(self) -> Self:
        self._tap.viewers.append(self)
        self._tap.arrivals.set()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tap.viewers.remove(self)


class SyntheticTap:
    """A screen, an input, and viewers.

    Args:
        pixels: What the screen shows first; a copy is kept.
        taker: Takes input.
    """

    def __init__(self, pixels: Pixels, taker: Input | None = None) -> None:
        self.screen = SyntheticScreen(pixels.copy())
        self.target = SyntheticTarget(taker)
        self.viewers: list[SyntheticViewer] = []
        self.arrivals = asyncio.Event()
        self.unseen: Pixels | None = None
        """What the target shows since nobody looks, of another size."""
        self.error: Exception | None = None
        """Raised to whoever asks for changes."""

    def viewer(self, name: str) -> SyntheticViewer:
        return SyntheticViewer(self)

    async def fresh(self) -> None:
        self.check()
        if self.unseen is not None:
            unseen, self.unseen = self.unseen, None
            self.resize(unseen)

    def draw(self, rect: Rect, pixels: Pixels | int) -> None:
        """Change part of the screen."""
        self.screen.pixels[rect.slices] = pixels
        self._publish(Damage(self.screen.width, self.screen.height, (rect,)))

    def move(self, source: Rect, x: int, y: int) -> None:
        """Copy part of the screen to another place on it, and say so."""
        move = Move(source, x, y)
        self.screen.pixels[move.destination.slices] = self.screen.pixels[source.slices].copy()
        self._publish(Damage(self.screen.width, self.screen.height, (move.destination,), (move,)))

    def resize(self, pixels: Pixels) -> None:
        """Show something else, of another size."""
        self.screen.pixels = pixels.copy()
        whole = Rect(0, 0, self.screen.width, self.screen.height)
        self._publish(Damage(self.screen.width, self.screen.height, (whole,), resized=True))

    def end(self, reason: str) -> None:
        """The target ends."""
        self.fail(TargetGone("tap", "synthetic", reason))

    def fail(self, error: Exception) -> None:
        """Looking at the target fails from here on."""
        self.error = error
        for viewer in self.viewers:
            viewer.news.set()

    def check(self) -> None:
        if self.error is not None:
            raise self.error

    def _publish(self, damage: Damage) -> None:
        for viewer in self.viewers:
            viewer.backlog.add(damage)
            viewer.news.set()


Taken = KeyEvent | tuple[PointerEvent, int, int] | str


class RecordingInput:
    """Writes down what it is given; takes nothing while its `gate` is closed."""

    def __init__(self) -> None:
        self.taken: list[Taken] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = asyncio.Event()
        """Set once something has come to the closed gate."""
        self.error: Exception | None = None
        """Raised instead of taking an event."""
        self._news = asyncio.Event()

    async def key(self, event: KeyEvent) -> None:
        await self._take(event)

    async def pointer(self, event: PointerEvent, width: int, height: int) -> None:
        await self._take((event, width, height))

    async def release_all(self) -> None:
        await self._take("release_all")

    async def until(self, count: int) -> list[Taken]:
        """Wait until so many have been taken."""
        async with asyncio.timeout(10):
            while len(self.taken) < count:
                self._news.clear()
                await self._news.wait()
        return self.taken

    async def _take(self, item: Taken) -> None:
        self.waiting.set()
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        self.taken.append(item)
        self._news.set()
