"""A byte stream over TCP that lets neither itself nor the kernel gather what the peer does not take."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from vramtap.rfb.wire import Buffer

RECEIVE_BYTES: Final = 4 * 1024
"""Taken at once: so many bytes of the smallest message take 2 ms to parse, in which nobody else is served."""
JOINED_BYTES: Final = 64 * 1024
"""Small buffers are joined up to this size, so that an update of many rectangles is few system calls."""
UNSENT_BYTES: Final = 128 * 1024
"""What the kernel keeps unsent. Without it the send buffer grows to 4 MB (tcp_wmem) of updates that a
viewer on a slow line gets late (tcp(7), TCP_NOTSENT_LOWAT; since Linux 3.12)."""
KEEPALIVE_S: Final = 60
"""Silence after which a peer is asked whether it is there, and again every 15 s, four times (tcp(7))."""


class TcpStream:
    """A `ByteStream` over a connected socket, which it closes.

    Args:
        connection: Connected; made non-blocking here.
        peer: How log lines call the client.
    """

    def __init__(self, connection: socket.socket, peer: str) -> None:
        self.peer = peer
        self._socket = connection
        self._loop = asyncio.get_running_loop()
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_S // 4)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)

    async def receive(self) -> bytes:
        """See `ByteStream`."""
        while True:
            try:
                return self._socket.recv(RECEIVE_BYTES)
            except (BlockingIOError, InterruptedError):
                await self._until(self._loop.add_reader, self._loop.remove_reader)

    async def send(self, buffers: Iterable[Buffer]) -> None:
        """See `ByteStream`. Buffers go to the kernel without a copy in between, as fast as it takes them."""
        for buffer in _joined(buffers):
            rest = memoryview(buffer)
            while rest:
                try:
                    rest = rest[self._socket.send(rest) :]
                except (BlockingIOError, InterruptedError):
                    await self._until(self._loop.add_writer, self._loop.remove_writer)

    # The loop has sock_recv and sock_sendall. When these fail, their exception and their future refer to each
    # other, and so does everything on the way of the exception: the update that a stalled client did not take
    # would stay until the garbage collector comes by.

    async def _until(self, add: Callable[..., None], remove: Callable[[int], bool]) -> None:
        """Wait until the socket can be read or written, or has broken."""
        ready = asyncio.Event()
        descriptor = self._socket.fileno()
        add(descriptor, ready.set)
        try:
            await ready.wait()
        finally:
            remove(descriptor)

    def close(self) -> None:
        """Close it; nobody may be receiving or sending any more."""
        self._socket.close()


def _joined(buffers: Iterable[Buffer]) -> Iterator[Buffer]:
    """The same bytes: large buffers as they are, small ones joined."""
    gathered = bytearray()
    for buffer in buffers:
        if len(gathered) + len(buffer) > JOINED_BYTES and gathered:
            yield gathered
            gathered = bytearray()
        if len(buffer) > JOINED_BYTES:
            yield buffer
        else:
            gathered += buffer
    if gathered:
        yield gathered
