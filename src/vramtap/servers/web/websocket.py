"""WebSocketStream: RFB's byte stream over a WebSocket, in binary messages and bounded buffers."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from aiohttp import WSCloseCode, WSMsgType, web

from vramtap.servers.listen import limit_unsent

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vramtap.rfb.wire import Buffer

log: logging.Logger = logging.getLogger(__name__)

MAX_MESSAGE_BYTES: Final = 64 * 1024
"""Limit for one message from a client. noVNC sends 10 KiB at most (its `core/websock.js`). A longer RFB
message, such as a clipboard text, may span several WebSocket messages."""
CHUNK_BYTES: Final = 128 * 1024
"""Size limit for one message to a client. noVNC takes 40 MiB unread at most. A stalled viewer holds one of
these messages."""
PING_S: Final = 30.0
"""Silence after which the server pings a viewer, seconds. It drops the viewer after half as long again."""

TARGET_ENDED: Final = 4000
"""Close code: the target has ended, and the reason says how (RFC 6455, 7.4.2: 4000-4999 are private)."""
MAX_REASON_BYTES: Final = 123
"""Limit for a close reason (RFC 6455, 5.5: a control frame carries 125 bytes, two of them the code)."""


class WebSocketStream:
    """A `ByteStream` over a WebSocket. `accept` makes it.

    Args:
        socket: The WebSocket, after its handshake.
        transport: The connection below it.
        peer: Name of the client in log lines.
        close_s: Time limit for the closing handshake, seconds.
    """

    def __init__(
        self, socket: web.WebSocketResponse, transport: asyncio.Transport, peer: str, close_s: float
    ) -> None:
        self.peer = peer
        self._socket = socket
        self._transport = transport
        self._close_s = close_s

    @property
    def response(self) -> web.WebSocketResponse:
        """The response that the request's handler has to return."""
        return self._socket

    async def receive(self) -> bytes:
        """Return the client's next bytes; empty after the client left or broke the protocol."""
        while True:
            message = await self._socket.receive()
            if message.type is WSMsgType.BINARY:
                if message.data:
                    return bytes(message.data)
                continue
            if message.type is WSMsgType.TEXT:
                log.warning("%s: disconnected: it sent text, RFB needs binary messages", self.peer)
                await self.close(WSCloseCode.UNSUPPORTED_DATA, "RFB needs binary messages")
            elif message.type is WSMsgType.ERROR:
                log.warning("%s: disconnected: %s", self.peer, message.data)
            return b""

    async def send(self, buffers: Iterable[Buffer]) -> None:
        """Send these buffers in order. Return when the kernel has taken all but a bounded rest.

        The stream copies the bytes: the caller may change a buffer after this returns.

        Raises:
            ConnectionResetError: The client has left.
        """
        for chunk in _chunks(buffers):
            await self._socket.send_bytes(chunk)

    async def close(self, code: int = WSCloseCode.OK, reason: str = "") -> None:
        """Do the closing handshake; cut the connection if the client does not answer in time."""
        try:
            async with asyncio.timeout(self._close_s):
                await self._socket.close(code=code, message=_close_reason(reason))
        except TimeoutError:
            log.info("%s: cut off: no answer to the closing handshake", self.peer)
        finally:
            if self._transport.get_write_buffer_size():
                # Closing a transport first drains its buffer. That of a stalled viewer never drains.
                self._transport.abort()
            else:
                self._transport.close()


async def accept(request: web.Request, close_s: float) -> WebSocketStream:
    """Answer a WebSocket handshake.

    Args:
        request: The handshake.
        close_s: Time limit for the closing handshake, seconds.

    Raises:
        web.HTTPBadRequest: The request is no WebSocket handshake.
        ConnectionResetError: The client left during the handshake.
    """
    answer = web.WebSocketResponse(
        timeout=close_s,
        heartbeat=PING_S,
        protocols=("binary",),
        compress=False,  # RFB encodings compress already; deflating again costs time and saves nothing
        max_msg_size=MAX_MESSAGE_BYTES,
        writer_limit=CHUNK_BYTES // 2,  # bytes after which aiohttp waits for the transport: every full chunk
    )
    await answer.prepare(request)
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the client left during the handshake")
    limit_unsent_of(transport)
    return WebSocketStream(answer, transport, f"web {request.remote}", close_s)


def limit_unsent_of(transport: asyncio.BaseTransport) -> None:
    """Have the kernel hold few unsent bytes for the other side of a transport."""
    connection = transport.get_extra_info("socket")
    if connection is not None:
        limit_unsent(connection)


def _chunks(buffers: Iterable[Buffer]) -> Iterator[bytes]:
    """Yield the same bytes in messages of at most `CHUNK_BYTES`: small buffers joined, large ones cut."""
    gathered = bytearray()
    for buffer in buffers:
        rest = memoryview(buffer).cast("B")
        while len(rest):
            taken = rest[: CHUNK_BYTES - len(gathered)]
            gathered += taken
            rest = rest[len(taken) :]
            if len(gathered) == CHUNK_BYTES:
                yield bytes(gathered)
                gathered.clear()
    if gathered:
        yield bytes(gathered)


def _close_reason(text: str) -> bytes:
    """Cut a close reason to the size of a close frame, between characters."""
    return text.encode("utf-8", "replace")[:MAX_REASON_BYTES].decode("utf-8", "ignore").encode()
