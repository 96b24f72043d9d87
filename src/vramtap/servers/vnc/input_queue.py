"""InputQueue: one client's keys and pointer on their way to the target, in order, in bounded memory."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Final

from vramtap.errors import TargetGone, VramtapError

if TYPE_CHECKING:
    from vramtap.keyboard.events import Input, KeyEvent, PointerEvent

log = logging.getLogger(__name__)

MAX_QUEUED: Final = 512
"""Events that wait for the target. People make some ten a second; more is a flood or a target that hangs."""
DRAIN_S: Final = 5.0
"""How long events of a client that has left may still take to reach the target: scripts type and hang up."""
RELEASE_S: Final = 2.0
"""How long letting go of what a client held may take."""
_MAX_HELD: Final = 256
"""Keys of one client remembered as held; no keyboard has more."""


class InputQueue:
    """Passes events on without holding up whoever reads them from the client.

    Motion that has not been passed on is replaced by newer motion. When the queue is full all of it is
    thrown away and everything is released: a lost release would leave a key down for good.

    Args:
        target: Takes the events.
        client: For log lines.
    """

    def __init__(self, target: Input, client: str) -> None:
        self._target = target
        self._client = client
        self._queue: deque[KeyEvent | _Pointer | None] = deque()
        self._news = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._buttons = 0
        self._held: set[int] = set()
        self._complained = False

    def __len__(self) -> int:
        return len(self._queue)

    def key(self, event: KeyEvent) -> None:
        """Queue a key."""
        self._put(event)

    def pointer(self, event: PointerEvent, width: int, height: int) -> None:
        """Queue a state of the pointer on a screen of this size, pixels."""
        moved = event.buttons == self._buttons
        self._buttons = event.buttons
        item = _Pointer(event, width, height, only_moved=moved)
        last = self._queue[-1] if self._queue else None
        # A press must reach the target where it was made: only motion gives way to motion.
        if moved and isinstance(last, _Pointer) and last.only_moved:
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
        self._news.set()

    async def run(self) -> None:
        """Pass events on, until cancelled.

        Raises:
            TargetGone: the target has ended.
        """
        while True:
            while self._queue:
                await self._pass_on(self._queue.popleft())
            self._idle.set()
            self._news.clear()
            await self._news.wait()

    async def drain(self) -> None:
        """Wait until everything queued has been passed on, `DRAIN_S` at most."""
        try:
            async with asyncio.timeout(DRAIN_S):
                await self._idle.wait()
        except TimeoutError:
            log.warning(
                "%s: the target did not take its last %d input events within %g s",
                self._client,
                len(self._queue),
                DRAIN_S,
                extra={"client": self._client},
            )

    async def release(self) -> None:
        """The client has left: let go of what it holds. If that is nothing, others' keys are left alone."""
        if not self._held and not self._buttons:
            return
        self._held.clear()
        self._buttons = 0
        try:
            async with asyncio.timeout(RELEASE_S):
                await self._target.release_all()
        except (VramtapError, TimeoutError) as error:
            log.warning("%s: releasing its keys: %s", self._client, str(error) or "timed out")

    async def _pass_on(self, item: KeyEvent | _Pointer | None) -> None:
        try:
            if item is None:
                self._held.clear()
                await self._target.release_all()
            elif isinstance(item, _Pointer):
                await self._target.pointer(item.event, item.width, item.height)
            else:
                self._remember(item)
                await self._target.key(item)
        except TargetGone:
            raise
        except VramtapError as error:
            level = logging.DEBUG if self._complained else logging.WARNING
            self._complained = True
            log.log(level, "%s: input: %s", self._client, error, extra={"client": self._client})

    def _remember(self, event: KeyEvent) -> None:
        key = event.scancode << 32 | event.keysym
        if not event.down:
            self._held.discard(key)
        elif len(self._held) < _MAX_HELD:
            self._held.add(key)


class _Pointer:
    """A state of the pointer in the queue, and whether only its place changed."""

    __slots__ = ("event", "height", "only_moved", "width")

    def __init__(self, event: PointerEvent, width: int, height: int, only_moved: bool) -> None:
        self.event = event
        self.width = width
        self.height = height
        self.only_moved = only_moved
