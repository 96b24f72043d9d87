"""A tap without a target: tests draw on its screen and read the input that it received."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from support.pictures import picture
from vramtap.display.damage import Damage, Move
from vramtap.display.mode import Mode
from vramtap.display.region import Rect
from vramtap.display.screen import Screen
from vramtap.errors import TargetGone
from vramtap.keyboard.events import Input, KeyEvent, PointerEvent
from vramtap.tap.stats import TapStats
from vramtap.tap.tap import Tap
from vramtap.tap.viewer import Viewer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vramtap.targets.base import Target

Pixels = NDArray[np.uint32]

URL = "demo:unit"
TRACKER = "log"


@dataclass
class SyntheticTarget:
    """The part of a `Target` that servers use.

    Args:
        url: TARGET string.
        input: Takes keys and pointer.
    """

    url: str
    input: Input | None


class SyntheticScreen(Screen):
    """A screen whose pixels and mode tests set.

    Args:
        pixels: First picture; kept, not copied.
    """

    def __init__(self, pixels: Pixels) -> None:
        super().__init__()
        self.shown = pixels
        self.shown_mode: Mode | None = Mode(self.width, self.height, 4 * self.width)

    @property
    def pixels(self) -> Pixels:
        return self.shown

    @property
    def width(self) -> int:
        return int(self.shown.shape[1])

    @property
    def height(self) -> int:
        return int(self.shown.shape[0])

    @property
    def mode(self) -> Mode | None:
        return self.shown_mode


class SyntheticTap(Tap):
    """A tap whose screen changes only when a test draws on it. Its viewers are real.

    Args:
        pixels: First picture of the screen; copied.
        input: Takes keys and pointer.
        url: TARGET string.
    """

    def __init__(self, pixels: Pixels | None = None, input: Input | None = None, url: str = URL) -> None:
        # The base class is not initialised: this class replaces every method that uses its attributes.
        first = picture("patches", 64, 48) if pixels is None else pixels
        self.canvas = SyntheticScreen(first.copy())
        """The same object as `screen`, with the attributes that tests set."""
        self.screen = self.canvas
        self.target = cast("Target", SyntheticTarget(url, input))
        self.stats = TapStats(tracker=TRACKER, tracker_why="the probe saw a write")
        self.closed = None
        self.unseen: Pixels | None = None
        """Picture of another size that the target has shown since the last scan."""
        self.error: Exception | None = None
        """Raised to every viewer that waits for changes."""
        self.fresh_calls = 0
        self.may_refresh = asyncio.Event()
        """`refresh` waits until this is set, as it is at first."""
        self.may_refresh.set()
        self.refresh_called = asyncio.Event()
        self._joined: list[Viewer] = []

    def viewer(self, name: str) -> Viewer:
        return Viewer(self, name)

    def join(self, viewer: Viewer) -> None:
        self._joined.append(viewer)

    def leave(self, viewer: Viewer) -> None:
        self._joined.remove(viewer)

    @property
    def viewers(self) -> int:
        return len(self._joined)

    @contextlib.contextmanager
    def wanted(self) -> Iterator[None]:
        yield

    async def fresh(self) -> None:
        self.fresh_calls += 1
        self.check()
        if self.unseen is not None:
            unseen, self.unseen = self.unseen, None
            self.resize(unseen)

    async def refresh(self) -> None:
        self.refresh_called.set()
        await self.may_refresh.wait()
        self.check()

    def check(self) -> None:
        if self.error is not None:
            raise self.error

    def draw(self, rect: Rect, pixels: Pixels | int) -> None:
        """Change part of the screen."""
        self.canvas.shown[rect.slices] = pixels
        self._notify(Damage(self.screen.width, self.screen.height, (rect,)))

    def copy_area(self, source: Rect, x: int, y: int) -> None:
        """Copy part of the screen to another place, and report it as a move."""
        move = Move(source, x, y)
        self.canvas.shown[move.destination.slices] = self.canvas.shown[source.slices].copy()
        self._notify(Damage(self.screen.width, self.screen.height, (move.destination,), (move,)))

    def resize(self, pixels: Pixels) -> None:
        """Show another picture, of another size."""
        self.canvas.shown = pixels.copy()
        whole = Rect(0, 0, self.screen.width, self.screen.height)
        self._notify(Damage(self.screen.width, self.screen.height, (whole,), resized=True))

    def end(self, reason: str) -> None:
        """End the target."""
        self.closed = reason
        self.fail(TargetGone("tap", self.target.url, reason))

    def fail(self, error: Exception) -> None:
        """Raise this error to every viewer that waits for changes, now and later."""
        self.error = error
        self.may_refresh.set()
        for viewer in self._joined:
            viewer.wake()

    def _notify(self, damage: Damage) -> None:
        for viewer in self._joined:
            viewer.add(damage)


Received = KeyEvent | tuple[PointerEvent, int, int] | str


class RecordingInput:
    """An input that records its events. It blocks while its gate is closed."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.reached = asyncio.Event()
        """Set when an event has reached the gate."""
        self.error: Exception | None = None
        """Raised instead of recording an event."""
        self._recorded = asyncio.Event()

    async def key(self, event: KeyEvent) -> None:
        await self._record(event)

    async def pointer(self, event: PointerEvent, width: int, height: int) -> None:
        await self._record((event, width, height))

    async def release_all(self) -> None:
        await self._record("release_all")

    async def until(self, count: int) -> list[Received]:
        """Wait for this many events; return all events so far."""
        async with asyncio.timeout(10):
            while len(self.received) < count:
                self._recorded.clear()
                await self._recorded.wait()
        return self.received

    async def _record(self, event: Received) -> None:
        self.reached.set()
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        self.received.append(event)
        self._recorded.set()
