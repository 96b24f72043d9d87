"""Session: serve one tap to one RFB client over any byte stream."""

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

    from vramtap.rfb.updates import FramebufferUpdate
    from vramtap.rfb.wire import Buffer
    from vramtap.servers.base import ByteStream
    from vramtap.tap.tap import Tap

log: logging.Logger = logging.getLogger(__name__)

HANDSHAKE_S: Final = 10.0
"""Default time limit for the handshake, seconds. It ends half-open connections."""
PASSWORD_S: Final = 60.0
"""Default extra time where the server wants a password, seconds. Viewers connect first and then ask their
user for it."""
FAILURE_DELAY_S: Final = 1.0
"""Default delay before the server answers a wrong password, seconds. It slows down trying all passwords."""
INLINE_AREA: Final = 128 * 128
"""Largest update that the event loop encodes itself, pixels. It takes 0.5 ms, less than a busy machine needs
to wake another thread twice. A cursor or a line of text is smaller."""
INLINE_RECTS: Final = 8
"""Most rectangles that the event loop encodes itself. Each takes 0.1 ms, however small."""
FINAL_READ_S: Final = 1.0
"""After a failed send: time in which the session still reads what the client sent before, seconds."""


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """How the server serves its clients.

    Args:
        name: Desktop name that clients show.
        password: Password for VNC authentication; None admits every client that reaches the stream.
        view_only: Whether the session ignores keys and pointer.
        handshake_s: Time limit for the handshake, seconds.
        password_s: Extra time for the handshake if there is a password, seconds.
        failure_delay_s: Delay before the server answers a wrong password, seconds.
        executor: Encodes larger updates; None for the event loop's default executor.
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
"""End reasons that are logged at INFO; the others are logged at WARNING."""


@dataclass(frozen=True, slots=True)
class SessionEnd:
    """How a session ended.

    Args:
        reason: Why it ended.
        detail: The same for people, in one clause.
        admitted: Whether the client completed the handshake.
    """

    reason: EndReason
    detail: str
    admitted: bool


async def serve_session(stream: ByteStream, tap: Tap, options: SessionOptions) -> SessionEnd:
    """Serve one client until it leaves, breaks the protocol, or the target ends. Log how the session ended.

    All clients share the screen. A client that asks for exclusive access (the shared flag of ClientInit) is
    served like any other: further viewers cost it nothing, and disconnecting the others would let one client
    keep them out for good.

    The caller closes the stream.

    Args:
        stream: Connection to the client. No other task uses it meanwhile.
        tap: The tap whose screen the client sees.
        options: How to serve it.

    Returns:
        How the session ended. Nothing that a client does raises an exception here.
    """
    session = _Session(stream, tap, options)
    end = SessionEnd(EndReason.STOPPED, "the server stops", admitted=False)
    try:
        end = await session.run()
    finally:
        log.log(
            logging.INFO if end.reason in _ORDINARY else logging.WARNING,
            "%s: %s",
            stream.peer,
            end.detail,
            extra={
                "client": stream.peer,
                "reason": end.reason.value,
                "detail": end.detail,
                "updates": session.updates,
                "bytes_sent": session.bytes_sent,
            },
        )
    return end


class _Session:
    """One client's session.

    Args:
        stream: Connection to the client.
        tap: The tap whose screen the client sees.
        options: How to serve it.
    """

    def __init__(self, stream: ByteStream, tap: Tap, options: SessionOptions) -> None:
        self.updates = 0
        self.bytes_sent = 0
        self._stream = stream
        self._tap = tap
        self._options = options
        screen = tap.screen
        self._connection = ServerConnection(options.name, screen.width, screen.height, options.password)
        self._encoder = UpdateEncoder()
        target_input = None if options.view_only else tap.target.input
        self._input = InputQueue(target_input, stream.peer) if target_input is not None else None

    async def run(self) -> SessionEnd:
        """Serve the client; return how the session ended."""
        try:
            return await self._run()
        except EOFError:
            return self._end(EndReason.LEFT, "the client closed the connection")
        except ProtocolError as error:
            return self._end(EndReason.BROKE_PROTOCOL, str(error))
        except TargetGone as error:
            return self._end(EndReason.TARGET_GONE, str(error))
        except VramtapError as error:
            return self._end(EndReason.FAILED, str(error))
        except OSError as error:
            return self._end(EndReason.LOST, f"connection lost: {error.strerror or error}")

    async def _run(self) -> SessionEnd:
        options = self._options
        limit_s = options.handshake_s + (0.0 if options.password is None else options.password_s)
        try:
            async with asyncio.timeout(limit_s):
                events = await self._handshake()
        except TimeoutError:
            return self._end(EndReason.NO_HANDSHAKE, f"no complete handshake within {limit_s:g} s")
        if events is None:
            return self._end(EndReason.WRONG_PASSWORD, "wrong password")
        await self._serve(events)
        raise AssertionError("a session ends by an exception")

    def _end(self, reason: EndReason, detail: str) -> SessionEnd:
        return SessionEnd(reason, detail, self._connection.initialised)

    async def _receive(self) -> bytes:
        """Return the client's next bytes.

        Raises:
            EOFError: The client closed the connection.
        """
        data = await self._stream.receive()
        if not data:
            raise EOFError
        return data

    async def _handshake(self) -> list[Event] | None:
        """Do the handshake.

        Returns:
            Events that came with its last bytes; None if the password was wrong.
        """
        connection, screen = self._connection, self._tap.screen
        while not connection.initialised:
            await self._stream.send([connection.data_to_send()])
            data = await self._receive()
            # The screen may be hours old: without viewers the tap reads nothing. Some clients keep the size
            # that ServerInit tells them, so it has to be the size of now.
            await self._tap.fresh()
            connection.resize(screen.width, screen.height)
            events = connection.receive(data)
            if connection.failed:
                await asyncio.sleep(self._options.failure_delay_s)
                await self._stream.send([connection.data_to_send()])
                return None
        await self._stream.send([connection.data_to_send()])
        return events

    async def _serve(self, events: list[Event]) -> None:
        """Read messages and send updates until an exception ends the session.

        Args:
            events: Events that came with the handshake.
        """
        with self._tap.viewer(self._stream.peer) as viewer:
            updates = UpdateQueue(self._connection, self._tap.screen, viewer)
            forwarder = asyncio.create_task(self._input.run()) if self._input is not None else None
            try:
                await _run_until_first_ends(self._read(updates, events), self._send(updates))
            except (EOFError, OSError):
                if self._input is not None:
                    await self._input.drain()
                raise
            finally:
                updates.stop()
                await self._stop_input(forwarder)

    async def _stop_input(self, forwarder: asyncio.Task[None] | None) -> None:
        """Stop forwarding input and release the keys that the client holds."""
        if forwarder is None or self._input is None:
            return
        forwarder.cancel()
        await asyncio.wait([forwarder])
        if not forwarder.cancelled() and (error := forwarder.exception()) is not None:
            log.info("%s: forwarding input ended: %s", self._stream.peer, error)
        await self._input.release_held()

    async def _read(self, updates: UpdateQueue, events: list[Event]) -> None:
        """Handle the client's messages as they come."""
        while True:
            for event in events:
                self._handle(event, updates)
            updates.wake.set()
            # Receiving from a socket that has data does not yield. Without this a client that floods the
            # server would keep the event loop to itself.
            await asyncio.sleep(0)
            events = self._connection.receive(await self._receive())

    def _handle(self, event: Event, updates: UpdateQueue) -> None:
        peer = self._stream.peer
        match event:
            case FramebufferUpdateRequest(incremental, area):
                updates.request(area, incremental=incremental)
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
                log.debug("%s: sets pixel format %s", peer, wire, extra={"client": peer})
            case SetEncodings(numbers):
                log.debug("%s: sets encodings %s", peer, numbers, extra={"client": peer})
            case SetDesktopSize(width, height):
                log.debug("%s: size %dx%d refused: the guest sets the size", peer, width, height)
            case ClientCutText() | AuthenticationFailed():
                pass  # Targets have no clipboard, and the handshake has answered the wrong password.
            case _:
                assert_never(event)

    async def _send(self, updates: UpdateQueue) -> None:
        """Send updates, each one after the client has taken the one before."""
        while True:
            await updates.wake.wait()
            updates.wake.clear()
            while (update := updates.next()) is not None:
                buffers = await self._encode(update)
                # A stalled client must not hold the pixels as well as their encoded form.
                update = None
                self.updates += 1
                self.bytes_sent += sum(len(buffer) for buffer in buffers)
                try:
                    await self._stream.send(buffers)
                except OSError:
                    # The reader still handles what the client sent last, and then meets the end itself.
                    await asyncio.sleep(FINAL_READ_S)
                    raise
                del buffers

    async def _encode(self, update: FramebufferUpdate) -> list[Buffer]:
        """Encode a small update here and a large one in the executor."""
        small = update.area <= INLINE_AREA and len(update.pixel_rects) <= INLINE_RECTS
        if small or update.is_cheap:
            return self._encoder.encode(update)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._options.executor, self._encoder.encode, update)


async def _run_until_first_ends(*coroutines: Coroutine[object, object, None]) -> None:
    """Run these until one ends, then cancel the others. Raise its exception, if it raised one."""
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
        # The exception refers to this frame, and this frame refers to the tasks and so to the exception. The
        # cycle would keep the update that a stalled client did not take until the garbage collector runs.
        del task, tasks, done
