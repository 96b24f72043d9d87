"""A client as a protocol would serve one: it has its own pixels, applies moves, then rects, and never peeks.

It holds the promise the tap makes to every viewer: whoever does so has the screen, whenever it stands still.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Self

import numpy as np
from numpy.typing import NDArray

from vramtap.display.region import Rect
from vramtap.errors import TargetGone

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from vramtap.tap.tap import Tap

Pixels = NDArray[np.uint32]

TIMEOUT_S: Final = 60.0
"""Only a hang takes so long: emulated guests share the machine with whatever else runs there."""
_NEVER_SENT: Final = 0xDEADBEEF
"""No colour, so that a pixel that was never sent is found whatever the guest draws."""


class ModelClient:
    """Takes all that is pending whenever there is something, until the `async with` block is left.

    Args:
        tap: What it looks at.
        moves: Whether it can copy pixels it has.
        busy: Awaited between two updates: what makes a client slow.
    """

    def __init__(self, tap: Tap, *, moves: bool = True, busy: Callable[[], object] | None = None) -> None:
        self.tap = tap
        self._moves = moves
        self._busy = busy
        self._viewer = tap.viewer("model")
        self._updated = asyncio.Event()
        self.pixels: Pixels = _blank(tap.screen.height, tap.screen.width)
        """What it shows. Shape `(height, width)`, `0x00RRGGBB`."""
        self.updates = 0
        """How many it took."""
        self.moved = 0
        """How many of the updates had a move in them."""
        self.sizes: list[tuple[int, int]] = []
        """Width and height, each time they were told anew."""

    async def __aenter__(self) -> Self:
        self._viewer.__enter__()
        self._following = asyncio.create_task(self._follow())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._following.cancel()
        await asyncio.wait([self._following])
        self._viewer.__exit__(None, None, None)
        if not self._following.cancelled():
            problem = self._following.exception()
            if problem is not None and not isinstance(problem, TargetGone):
                raise problem

    async def ends(self, timeout_s: float = TIMEOUT_S) -> TargetGone:
        """Wait until the target's end is told.

        Raises:
            TimeoutError: it is not.
        """
        async with asyncio.timeout(timeout_s):
            await asyncio.wait([self._following])
        problem = self._following.exception()
        assert isinstance(problem, TargetGone), problem
        return problem

    async def shows(self, truth: Pixels, timeout_s: float = TIMEOUT_S) -> None:
        """Wait until it shows this picture, and the tap's screen too.

        Raises:
            AssertionError: it does not in this time; says where it differs.
        """
        try:
            await self.until(lambda: np.array_equal(self.pixels, truth), timeout_s)
        except TimeoutError:
            difference = difference_of(self.pixels, truth)
            screen = difference_of(self.tap.screen.pixels, truth)
            raise AssertionError(f"client: {difference}; tap: {screen}; {self.tap.stats.as_dict()}") from None
        # What the tap knows beyond what it has told would differ here.
        np.testing.assert_array_equal(self.tap.screen.pixels, truth)

    async def until(self, happened: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> None:
        """Wait until something is so, looking after each update.

        Raises:
            TimeoutError: it is not in this time.
            TargetGone: the target has ended.
        """
        async with asyncio.timeout(timeout_s):
            while not happened():
                self._updated.clear()
                if self._following.done():
                    self._following.result()
                await self._updated.wait()

    async def _follow(self) -> None:
        try:
            while True:
                await self._viewer.changed()
                self._take()
                self._updated.set()
                if self._busy is not None:
                    await asyncio.to_thread(self._busy)
        finally:
            self._updated.set()

    def _take(self) -> None:
        backlog = self._viewer.backlog
        if backlog.resized:
            backlog.accept_size()
            self.pixels = _blank(backlog.height, backlog.width)
            self.sizes.append((backlog.width, backlog.height))
        assert self.pixels.shape == self.tap.screen.pixels.shape, "resized without a word"
        update = backlog.take(Rect(0, 0, backlog.width, backlog.height), moves=self._moves)
        for move in update.moves:
            self.pixels[move.destination.slices] = self.pixels[move.source.slices].copy()
        for rect in update.rects:
            self.pixels[rect.slices] = self.tap.screen.pixels[rect.slices]
        self.updates += 1
        self.moved += bool(update.moves)


def difference_of(shown: Pixels, truth: Pixels) -> str:
    """Where two pictures differ, for a message."""
    if shown.shape != truth.shape:
        return f"{shown.shape[1]}x{shown.shape[0]} instead of {truth.shape[1]}x{truth.shape[0]}"
    rows, columns = np.nonzero(shown != truth)
    if not len(rows):
        return "equal"
    y, x = int(rows[0]), int(columns[0])
    return (
        f"{len(rows)} pixels differ in x {columns.min()}..{columns.max()}, y {rows.min()}..{rows.max()}, "
        f"the first at {x},{y}: {shown[y, x]:#08x} instead of {truth[y, x]:#08x}"
    )


def _blank(height: int, width: int) -> Pixels:
    return np.full((height, width), _NEVER_SENT, dtype=np.uint32)
