"""TcpStream: order of bytes, back-pressure, and socket options."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from vramtap.servers.listen import UNSENT_BYTES
from vramtap.servers.vnc.tcp import JOINED_BYTES, TcpStream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vramtap.rfb.wire import Buffer

BIG = bytes(range(256)) * 4096 * 16


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    with near, far:
        yield near, far


def read_all(end: socket.socket) -> bytes:
    data = bytearray()
    while piece := end.recv(1 << 20):
        data += piece
    return bytes(data)


async def test_buffers_arrive_in_order(ends: tuple[socket.socket, socket.socket]) -> None:
    near, far = ends
    stream = TcpStream(near, "peer")
    buffers: list[Buffer] = [
        b"a",
        b"",
        bytearray(b"b" * JOINED_BYTES),
        b"c",
        memoryview(BIG),
        b"d" * 1000,
        b"e",
    ]
    reading = asyncio.create_task(asyncio.to_thread(read_all, far))
    await stream.send(buffers)
    stream.close()
    assert await reading == b"".join(buffers)


async def test_send_waits_while_the_peer_does_not_read(ends: tuple[socket.socket, socket.socket]) -> None:
    near, far = ends
    far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
    stream = TcpStream(near, "peer")
    sending = asyncio.create_task(stream.send([BIG]))
    # The kernel takes a part of the bytes. `send` must wait for the rest.
    await asyncio.sleep(0)
    assert not sending.done()
    reading = asyncio.create_task(asyncio.to_thread(read_all, far))
    await sending
    stream.close()
    assert await reading == BIG


async def test_receive_returns_empty_after_the_peer_closed(ends: tuple[socket.socket, socket.socket]) -> None:
    near, far = ends
    stream = TcpStream(near, "peer")
    far.sendall(b"last words")
    far.shutdown(socket.SHUT_WR)
    assert await stream.receive() == b"last words"
    assert await stream.receive() == b""
    stream.close()


async def test_socket_options_limit_unsent_bytes_and_disable_delay(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    near, _ = ends
    TcpStream(near, "peer")
    assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == UNSENT_BYTES
    assert near.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
