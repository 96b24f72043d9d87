"""ModelClient: a viewer with its own pixels. It applies moves, then rectangles, as a protocol's client does.

It checks the tap's promise to every viewer: after that, the viewer has exactly the screen.
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
"""Default time limit, seconds. Only a hang takes this long, on a machine that is busy with other work."""
_NEVER_SENT: Final = 0xDEADBEEF
"""Initial pixel value. It is no colour: a pixel that was never sent differs from everything a guest draws."""


class ModelClient:
    """Takes every update of a tap while the `async with` block runs.

    Args:
        tap: The tap.
        moves: Whether the client can copy its own pixels.
        busy: Called in a thread between two updates, to make the client slow.
    """

    def __init__(self, tap: Tap, *, moves: bool = True, busy: Callable[[], object] | None = None) -> None:
        self.tap = tap
        self._moves = moves
        self._busy = busy
        self._viewer = tap.viewer("model")
        self._updated = asyncio.Event()
        self.pixels: Pixels = _blank(tap.screen.height, tap.screen.width)
        """The client's pixels. Shape `(height, width)`, `0x00RRGGBB`."""
        self.updates = 0
        """Number of updates."""
        self.moved = 0
        """Number of updates with a move."""
        self.sizes: list[tuple[int, int]] = []
        """Width and height at each change of size."""

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
        """Wait for the end of the target and return its error.

        Raises:
            TimeoutError: The target goes on.
        """
        async with asyncio.timeout(timeout_s):
            await asyncio.wait([self._following])
        problem = self._following.exception()
        assert isinstance(problem, TargetGone), problem
        return problem

    async def shows(self, truth: Pixels, timeout_s: float = TIMEOUT_S) -> None:
        """Wait until the client shows this picture, and check that the tap's screen does too.

        Raises:
            AssertionError: It does not within this time; says where it differs.
        """
        try:
            await self.until(lambda: np.array_equal(self.pixels, truth), timeout_s)
        except TimeoutError:
            difference = difference_of(self.pixels, truth)
            screen = difference_of(self.tap.screen.pixels, truth)
            raise AssertionError(f"client: {difference}; tap: {screen}; {self.tap.stats.as_dict()}") from None
        # A difference here is a change that the tap found and did not report.
        np.testing.assert_array_equal(self.tap.screen.pixels, truth)

    async def until(self, happened: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> None:
        """Wait until a condition holds; check it after each update.

        Raises:
            TimeoutError: It does not hold within this time.
            TargetGone: The target has ended.
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
                self._take_update()
                self._updated.set()
                if self._busy is not None:
                    await asyncio.to_thread(self._busy)
        finally:
            self._updated.set()

    def _take_update(self) -> None:
        backlog = self._viewer.backlog
        if backlog.resized:
            backlog.accept_size()
            self.pixels = _blank(backlog.height, backlog.width)
            self.sizes.append((backlog.width, backlog.height))
        assert self.pixels.shape == self.tap.screen.pixels.shape, "the screen was resized without notice"
        update = backlog.take(Rect(0, 0, backlog.width, backlog.height), moves=self._moves)
        for move in update.moves:
            self.pixels[move.destination.slices] = self.pixels[move.source.slices].copy()
        for rect in update.rects:
            self.pixels[rect.slices] = self.tap.screen.pixels[rect.slices]
        self.updates += 1
        self.moved += bool(update.moves)


def difference_of(shown: Pixels, truth: Pixels) -> str:
    """Describe where two pictures differ, for a message."""
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
