"""RFB's byte stream over a WebSocket: binary messages in, binary messages out, never a growing buffer."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import TYPE_CHECKING, Final

from aiohttp import WSCloseCode, WSMsgType, web

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vramtap.rfb.wire import Buffer

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES: Final = 64 * 1024
"""Of one message from a client. noVNC sends 10 KiB at most (its `core/websock.js`); RFB's longest, a
clipboard text, may come in as many messages as the client likes, since messages carry no meaning."""
CHUNK_BYTES: Final = 128 * 1024
"""Of one message to a client. noVNC takes 40 MiB unread at most, and a stalled viewer holds one of these."""
UNSENT_BYTES: Final = 128 * 1024
"""What the kernel keeps unsent. Without it the send buffer grows to 4 MB (tcp_wmem) of updates that a
viewer on a slow line gets late (tcp(7), TCP_NOTSENT_LOWAT; since Linux 3.12)."""
PING_S: Final = 30.0
"""Silence after which a viewer is asked whether it is there; half as long again and it is dropped."""
CLOSE_S: Final = 2.0
"""How long a closing handshake may take before the connection is cut."""

TARGET_ENDED: Final = 4000
"""Close code of ours (RFC 6455, 7.4.2: 4000-4999 are private): the target has ended; the reason says how."""
MAX_REASON_BYTES: Final = 123
"""A close frame's reason (RFC 6455, 5.5: control frames carry 125 bytes, two of them the code)."""


class WebSocketStream:
    """A `ByteStream` over a WebSocket that has been accepted.

    Args:
        socket: Prepared, made by `accept`.
        transport: What carries it.
        peer: How messages call the client.
    """

    def __init__(self, socket: web.WebSocketResponse, transport: asyncio.Transport, peer: str) -> None:
        self.peer = peer
        self._socket = socket
        self._transport = transport

    @property
    def response(self) -> web.WebSocketResponse:
        """What the request's handler has to return."""
        return self._socket

    async def receive(self) -> bytes:
        """Bytes from the client as they come; empty when it has gone or broken the protocol."""
        while True:
            message = await self._socket.receive()
            if message.type is WSMsgType.BINARY:
                if message.data:
                    return bytes(message.data)
                continue
            if message.type is WSMsgType.TEXT:
                log.warning("%s: dropped: RFB travels in binary messages, this client sent text", self.peer)
                await self.close(WSCloseCode.UNSUPPORTED_DATA, "RFB travels in binary messages")
            elif message.type is WSMsgType.ERROR:
                log.warning("%s: dropped: %s", self.peer, message.data)
            return b""

    async def send(self, buffers: Iterable[Buffer]) -> None:
        """Send these bytes in order; returns when all but a bounded rest has been taken by the kernel.

        What is sent is copied: a buffer may be changed once this has returned.

        Raises:
            ConnectionResetError: the client has gone.
        """
        for chunk in _chunks(buffers):
            await self._socket.send_bytes(chunk)

    async def close(self, code: int = WSCloseCode.OK, reason: str = "") -> None:
        """Say goodbye if the client listens; cut the connection if it does not within `CLOSE_S`."""
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._socket.close(code=code, message=_reason(reason))
        except TimeoutError:
            log.info("%s: did not take the goodbye, cut off", self.peer)
        finally:
            if self._transport.get_write_buffer_size():
                # A transport that is closed first drains its buffer, and a stalled viewer's never does.
                self._transport.abort()
            else:
                self._transport.close()


async def accept(request: web.Request) -> WebSocketStream:
    """Answer a WebSocket handshake.

    Raises:
        web.HTTPBadRequest: it is none.
        ConnectionResetError: the client has gone.
    """
    answer = web.WebSocketResponse(
        timeout=CLOSE_S,
        heartbeat=PING_S,
        protocols=("binary",),
        compress=False,  # the encodings compress already; deflating again costs time and saves nothing
        max_msg_size=MAX_MESSAGE_BYTES,
        writer_limit=CHUNK_BYTES
        // 2,  # aiohttp waits for the transport after this many bytes: at every full chunk
    )
    await answer.prepare(request)
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the client left during the handshake")
    limit_unsent(transport)
    return WebSocketStream(answer, transport, f"web {request.remote}")


def limit_unsent(transport: asyncio.BaseTransport) -> None:
    """Have the kernel keep little of what the other side has not asked for yet; TCP only."""
    channel = transport.get_extra_info("socket")
    if channel is not None and channel.family in (socket.AF_INET, socket.AF_INET6):
        channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)


def _chunks(buffers: Iterable[Buffer]) -> Iterator[bytes]:
    """The same bytes in messages of at most `CHUNK_BYTES`: small buffers joined, large ones cut."""
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


def _reason(text: str) -> bytes:
    """Cut to what a close frame carries, between characters."""
    return text.encode("utf-8", "replace")[:MAX_REASON_BYTES].decode("utf-8", "ignore").encode()
