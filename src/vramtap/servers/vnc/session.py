"""A session: one RFB client over any byte stream, looking through a tap."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, assert_never

from vramtap.errors import ProtocolError, TargetGone, VramtapError
from vramtap.keyboard.events import KeyEvent, PointerEvent
from vramtap.rfb.connection import ServerConnection
from vramtap.rfb.events import (
    AuthenticationFailed,
    ClientCutText,
    ClientInit,
    Event,
    FramebufferUpdateRequest,
    SetDesktopSize,
    SetEncodings,
    SetPixelFormat,
)
from vramtap.rfb.updates import UpdateEncoder
from vramtap.servers.vnc.input_queue import InputQueue
from vramtap.servers.vnc.update_queue import UpdateQueue

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from concurrent.futures import Executor

    from vramtap.servers.base import ByteStream, TapLike

log = logging.getLogger(__name__)

HANDSHAKE_S: Final = 10.0
"""Until a client must have finished the handshake: half-open connections go."""
PASSWORD_S: Final = 60.0
"""That much longer where a password is asked for: viewers connect first and ask their user then."""
FAILURE_DELAY_S: Final = 1.0
"""How long a wrong password is left unanswered: what makes trying all of them slow."""
INLINE_AREA: Final = 128 * 128
"""Pixels that are encoded at once: this takes less time (0.5 ms) than another thread needs to be woken twice
on a busy machine, and a cursor or a line of text is no more."""
INLINE_PIECES: Final = 8
"""Rectangles that are encoded at once: each takes 0.1 ms, however small."""
LAST_WORDS_S: Final = 1.0
"""After sending failed: how long what the client sent before may still be read."""


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """How clients are served.

    Args:
        name: Of the desktop, shown by clients.
        password: For VNC authentication; None lets everyone in who reaches the stream.
        view_only: Keys and pointer are ignored.
        handshake_s: Until the handshake must be done, seconds.
        password_s: That much longer where there is a password, seconds.
        failure_delay_s: How long a wrong password is left unanswered, seconds.
        executor: Where larger updates are encoded; the loop's own if None.
    """

    name: str = "vramtap"
    password: str | None = None
    view_only: bool = False
    handshake_s: float = HANDSHAKE_S
    password_s: float = PASSWORD_S
    failure_delay_s: float = FAILURE_DELAY_S
    executor: Executor | None = None


class EndReason(StrEnum):
    """Why a session ended."""

    LEFT = "left"
    LOST = "lost"
    BROKE_PROTOCOL = "broke-protocol"
    WRONG_PASSWORD = "wrong-password"
    NO_HANDSHAKE = "no-handshake"
    TARGET_GONE = "target-gone"
    FAILED = "failed"
    STOPPED = "stopped"


_ORDINARY: Final = frozenset({EndReason.LEFT, EndReason.LOST, EndReason.TARGET_GONE, EndReason.STOPPED})
"""Causes that call for nobody's attention."""


@dataclass(frozen=True, slots=True)
class SessionEnd:
    """How a session ended.

    Args:
        cause: Which of the ways.
        reason: For people, in one clause.
        admitted: Whether the client had got through the handshake.
    """

    cause: EndReason
    reason: str
    admitted: bool


async def serve_session(stream: ByteStream, tap: TapLike, options: SessionOptions) -> SessionEnd:
    """Serve one client until it leaves, breaks the protocol, or the target ends; the reason is logged.

    All clients share the screen: one that asks not to (ClientInit's flag) gets it like any other. Watching
    costs the others nothing here, and whoever could disconnect them could keep them out for good.

    The stream is left open; closing it is the caller's.

    Args:
        stream: To the client; not used by anybody else meanwhile.
        tap: What it is shown.
        options: How.

    Returns:
        How it ended. What a client does never raises.
    """
    session = _Session(stream, tap, options)
    departure = SessionEnd(EndReason.STOPPED, "the server stops", admitted=False)
    try:
        departure = await session.run()
    finally:
        log.log(
            logging.INFO if departure.cause in _ORDINARY else logging.WARNING,
            "%s: %s",
            stream.peer,
            departure.reason,
            extra={
                "client": stream.peer,
                "cause": departure.cause.value,
                "reason": departure.reason,
                "updates": session.updates,
                "bytes_sent": session.bytes_sent,
            },
        )
    return departure


class _Session:
    def __init__(self, stream: ByteStream, tap: TapLike, options: SessionOptions) -> None:
        self.updates = 0
        self.bytes_sent = 0
        self._stream = stream
        self._tap = tap
        self._options = options
        screen = tap.screen
        self._connection = ServerConnection(options.name, screen.width, screen.height, options.password)
        self._encoder = UpdateEncoder()
        wanted_input = None if options.view_only else tap.target.input
        self._input = InputQueue(wanted_input, stream.peer) if wanted_input is not None else None

    async def run(self) -> SessionEnd:
        options = self._options
        limit_s = options.handshake_s + (0.0 if options.password is None else options.password_s)
        try:
            try:
                async with asyncio.timeout(limit_s):
                    events = await self._shake_hands()
            except TimeoutError:
                return self._departure(EndReason.NO_HANDSHAKE, f"no complete handshake within {limit_s:g} s")
            if events is None:
                return self._departure(EndReason.WRONG_PASSWORD, "wrong password")
            await self._look(events)
        except EOFError:
            return self._departure(EndReason.LEFT, "the client closed the connection")
        except ProtocolError as error:
            return self._departure(EndReason.BROKE_PROTOCOL, str(error))
        except TargetGone as error:
            return self._departure(EndReason.TARGET_GONE, str(error))
        except VramtapError as error:
            return self._departure(EndReason.FAILED, str(error))
        except OSError as error:
            return self._departure(EndReason.LOST, f"connection lost: {error.strerror or error}")
        raise AssertionError("a session ends by an exception")

    def _departure(self, cause: EndReason, reason: str) -> SessionEnd:
        return SessionEnd(cause, reason, self._connection.initialised)

    async def _receive(self) -> list[Event]:
        return self._connection.receive(await self._received())

    async def _received(self) -> bytes:
        data = await self._stream.receive()
        if not data:
            raise EOFError
        return data

    async def _shake_hands(self) -> list[Event] | None:
        """The handshake.

        Returns:
            Events that came with its last bytes; None if the password was wrong.
        """
        connection, screen = self._connection, self._tap.screen
        while not connection.initialised:
            await self._stream.send([connection.data_to_send()])
            data = await self._received()
            # Nobody may have looked for hours, and some clients live with the size they are told first.
            await self._tap.fresh()
            connection.resize(screen.width, screen.height)
            events = connection.receive(data)
            if connection.failed:
                await asyncio.sleep(self._options.failure_delay_s)
                await self._stream.send([connection.data_to_send()])
                return None
        await self._stream.send([connection.data_to_send()])
        return events

    async def _look(self, events: list[Event]) -> None:
        """What follows the handshake; ends by an exception only."""
        with self._tap.viewer(self._stream.peer) as viewer:
            updates = UpdateQueue(self._connection, self._tap.screen, viewer)
            forwarding = asyncio.create_task(self._input.run()) if self._input is not None else None
            try:
                await _first_of(self._read(updates, events), self._send(updates))
            except (EOFError, OSError):
                if self._input is not None:
                    await self._input.drain()
                raise
            finally:
                updates.stop()
                await self._stop_input(forwarding)

    async def _stop_input(self, forwarding: asyncio.Task[None] | None) -> None:
        if forwarding is None or self._input is None:
            return
        forwarding.cancel()
        await asyncio.wait([forwarding])
        if not forwarding.cancelled() and (error := forwarding.exception()) is not None:
            log.info("%s: input ended: %s", self._stream.peer, error)
        await self._input.release()

    async def _read(self, updates: UpdateQueue, events: list[Event]) -> None:
        while True:
            for event in events:
                self._handle(event, updates)
            updates.wake.set()
            # A socket with something in it is read without waiting: a flood would have the loop to itself.
            await asyncio.sleep(0)
            events = await self._receive()

    def _handle(self, event: Event, updates: UpdateQueue) -> None:
        peer = self._stream.peer
        match event:
            case FramebufferUpdateRequest(incremental, area):
                updates.request(incremental, area)
            case KeyEvent():
                if self._input is not None:
                    self._input.key(event)
            case PointerEvent(x, y, buttons):
                if self._input is not None:
                    width, height = self._tap.screen.width, self._tap.screen.height
                    clamped = PointerEvent(min(x, width - 1), min(y, height - 1), buttons)
                    self._input.pointer(clamped, width, height)
            case ClientInit(shared):
                version = "{}.{}".format(*self._connection.version)
                log.info("%s: connected, RFB %s", peer, version, extra={"client": peer, "shared": shared})
            case SetPixelFormat(wire):
                log.debug("%s: pixels as %s", peer, wire, extra={"client": peer})
            case SetEncodings(numbers):
                log.debug("%s: encodings %s", peer, numbers, extra={"client": peer})
            case SetDesktopSize(width, height):
                log.debug("%s: %dx%d refused: the size is the guest's", peer, width, height)
            case ClientCutText() | AuthenticationFailed():
                pass  # No target takes a clipboard; and the handshake has dealt with passwords.
            case _:
                assert_never(event)

    async def _send(self, updates: UpdateQueue) -> None:
        """Send updates one by one: none is begun before the peer has taken the one before."""
        loop = asyncio.get_running_loop()
        while True:
            await updates.wake.wait()
            updates.wake.clear()
            while (update := updates.next()) is not None:
                small = update.area <= INLINE_AREA and len(update.pieces) <= INLINE_PIECES
                if small or update.is_light:
                    buffers = self._encoder.encode(update)
                else:
                    buffers = await loop.run_in_executor(self._options.executor, self._encoder.encode, update)
                # A stalled client must not hold pixels beside what they were encoded to.
                update = None
                self.updates += 1
                self.bytes_sent += sum(len(buffer) for buffer in buffers)
                try:
                    await self._stream.send(buffers)
                except OSError:
                    # What the client said last is still to be read; the reader then meets the end itself.
                    await asyncio.sleep(LAST_WORDS_S)
                    raise
                del buffers


async def _first_of(*coroutines: Coroutine[object, object, None]) -> None:
    """Run these until one ends, then stop the others; raises what that one raised."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    try:
        for task in done:
            task.result()
    finally:
        # What is raised refers to this frame, and so through the tasks to itself. Left closed, the circle
        # keeps the update that a stalled client did not take until the garbage collector comes by.
        del task, tasks, done
