"""InputQueue: one client's key and pointer events on their way to the target, in order, in bounded memory."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from vramtap.errors import TargetGone, VramtapError

if TYPE_CHECKING:
    from vramtap.keyboard.events import Input, KeyEvent, PointerEvent

log: logging.Logger = logging.getLogger(__name__)

MAX_QUEUED: Final = 512
"""Limit for queued events. A person makes some ten a second; a full queue means a flood or a target that
hangs."""
DRAIN_S: Final = 5.0
"""Default time in which the events of a client that left may still reach the target, seconds. Scripts type
and disconnect at once."""
RELEASE_S: Final = 2.0
"""Default time limit for releasing the keys and buttons that a client held, seconds."""
_MAX_HELD: Final = 256
"""Limit for the keys remembered as held by one client. No keyboard has more."""


@dataclass(frozen=True, slots=True)
class _Pointer:
    """A pointer event in the queue.

    Args:
        event: The event.
        width: Width of the screen that its position refers to, pixels.
        height: Height of that screen, pixels.
        is_motion: Whether the buttons are those of the event before.
    """

    event: PointerEvent
    width: int
    height: int
    is_motion: bool


class InputQueue:
    """Forwards events to the target without blocking the reader of the client's messages.

    A newer motion replaces a queued motion. When the queue is full, the queue drops all events and releases
    all keys: a lost release would leave a key pressed for good.

    Args:
        target: Input of the target.
        client: Name of the client in log lines.
        drain_s: Time limit of `drain`, seconds.
        release_s: Time limit of `release_held`, seconds.
    """

    def __init__(
        self, target: Input, client: str, *, drain_s: float = DRAIN_S, release_s: float = RELEASE_S
    ) -> None:
        self._target = target
        self._client = client
        self._drain_s = drain_s
        self._release_s = release_s
        # None stands for releasing all keys.
        self._queue: deque[KeyEvent | _Pointer | None] = deque()
        self._queued = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._buttons = 0
        self._held: set[int] = set()
        self._warned = False

    def __len__(self) -> int:
        return len(self._queue)

    def key(self, event: KeyEvent) -> None:
        """Queue a key event."""
        self._put(event)

    def pointer(self, event: PointerEvent, width: int, height: int) -> None:
        """Queue a pointer event.

        Args:
            event: Position and buttons.
            width: Width of the screen that the position refers to, pixels.
            height: Height of that screen, pixels.
        """
        item = _Pointer(event, width, height, is_motion=event.buttons == self._buttons)
        self._buttons = event.buttons
        last = self._queue[-1] if self._queue else None
        # A press must reach the target at its own position, so a motion replaces only another motion.
        if item.is_motion and isinstance(last, _Pointer) and last.is_motion:
            self._queue[-1] = item
        else:
            self._put(item)

    def _put(self, item: KeyEvent | _Pointer) -> None:
        if len(self._queue) >= MAX_QUEUED:
            log.warning(
                "%s: input comes faster than the target takes it: %d events dropped, all keys released",
                self._client,
                len(self._queue),
                extra={"client": self._client, "dropped": len(self._queue)},
            )
            self._queue.clear()
            self._queue.append(None)
        self._queue.append(item)
        self._idle.clear()
        self._queued.set()

    async def run(self) -> None:
        """Forward events until cancelled.

        Raises:
            TargetGone: The target has ended.
        """
        while True:
            while self._queue:
                await self._forward(self._queue.popleft())
            self._idle.set()
            self._queued.clear()
            await self._queued.wait()

    async def drain(self) -> None:
        """Wait until the target has taken all queued events, or the time limit has passed."""
        try:
            async with asyncio.timeout(self._drain_s):
                await self._idle.wait()
        except TimeoutError:
            log.warning(
                "%s: the target did not take the last %d input events within %g s",
                self._client,
                len(self._queue),
                self._drain_s,
                extra={"client": self._client},
            )

    async def release_held(self) -> None:
        """Release the keys and buttons that the client holds, if any. Other clients' keys stay pressed."""
        if not self._held and not self._buttons:
            return
        self._held.clear()
        self._buttons = 0
        try:
            async with asyncio.timeout(self._release_s):
                await self._target.release_all()
        except (VramtapError, TimeoutError) as error:
            log.warning("%s: releasing its keys failed: %s", self._client, str(error) or "timed out")

    async def _forward(self, item: KeyEvent | _Pointer | None) -> None:
        try:
            if item is None:
                self._held.clear()
                await self._target.release_all()
            elif isinstance(item, _Pointer):
                await self._target.pointer(item.event, item.width, item.height)
            else:
                self._track_held(item)
                await self._target.key(item)
        except TargetGone:
            raise
        except VramtapError as error:
            level = logging.DEBUG if self._warned else logging.WARNING
            self._warned = True
            log.log(level, "%s: input: %s", self._client, error, extra={"client": self._client})

    def _track_held(self, event: KeyEvent) -> None:
        key = event.scancode << 32 | event.keysym
        if not event.down:
            self._held.discard(key)
        elif len(self._held) < _MAX_HELD:
            self._held.add(key)
