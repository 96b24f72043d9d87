"""TcpStream: a byte stream over TCP with bounded buffers in the process and in the kernel."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Final

from vramtap.servers.listen import limit_unsent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from vramtap.rfb.wire import Buffer

RECEIVE_BYTES: Final = 4 * 1024
"""Bytes of one receive. This many bytes of the smallest RFB message take 2 ms to parse, and the event loop
serves no other client meanwhile."""
JOINED_BYTES: Final = 64 * 1024
"""Size up to which small buffers are joined, so that an update of many rectangles takes few system calls."""
KEEPALIVE_S: Final = 60
"""Silence after which the kernel probes the peer, seconds. It repeats the probe every 15 s, four times
(tcp(7))."""


class TcpStream:
    """A `ByteStream` over a connected socket.

    Args:
        connection: The connected socket. The stream makes it non-blocking and closes it.
        peer: Name of the client in log lines.
    """

    def __init__(self, connection: socket.socket, peer: str) -> None:
        self.peer = peer
        self._socket = connection
        self._loop = asyncio.get_running_loop()
        connection.settimeout(0)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        limit_unsent(connection)
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
                await self._wait_ready(self._loop.add_reader, self._loop.remove_reader)

    async def send(self, buffers: Iterable[Buffer]) -> None:
        """See `ByteStream`. Large buffers go to the kernel without a copy."""
        for buffer in _joined(buffers):
            rest = memoryview(buffer)
            while rest:
                try:
                    rest = rest[self._socket.send(rest) :]
                except (BlockingIOError, InterruptedError):
                    await self._wait_ready(self._loop.add_writer, self._loop.remove_writer)

    # asyncio offers loop.sock_recv and loop.sock_sendall. When one of them fails, its exception and its
    # future refer to each other, and the exception's traceback refers to every frame below. The update that
    # a stalled client did not take would stay in memory until the garbage collector runs. So the stream
    # waits itself.

    async def _wait_ready(self, add: Callable[..., None], remove: Callable[[int], bool]) -> None:
        """Wait until the socket is readable or writable, or the connection broke."""
        ready = asyncio.Event()
        descriptor = self._socket.fileno()
        add(descriptor, ready.set)
        try:
            await ready.wait()
        finally:
            remove(descriptor)

    def close(self) -> None:
        """Close the socket. No task may receive or send any more."""
        self._socket.close()


def _joined(buffers: Iterable[Buffer]) -> Iterator[Buffer]:
    """Yield the same bytes: large buffers as they are, small ones joined."""
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
