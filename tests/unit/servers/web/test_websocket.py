"""WebSocketStream: RFB's byte stream over a WebSocket."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp
from hypothesis import given
from hypothesis import strategies as st

from support.synthetic_tap import SyntheticTap
from support.web_serving import handshake
from vramtap.servers.listen import UNSENT_BYTES
from vramtap.servers.vnc.session import EndReason, SessionEnd, SessionOptions
from vramtap.servers.web import websocket as web_stream
from vramtap.servers.web.limits import WebLimits
from vramtap.servers.web.server import WebServer
from vramtap.servers.web.websocket import (
    CHUNK_BYTES,
    MAX_MESSAGE_BYTES,
    MAX_REASON_BYTES,
    WebSocketStream,
)

if TYPE_CHECKING:
    from vramtap.tap.tap import Tap

Session = Callable[[WebSocketStream], Awaitable[None]]


@asynccontextmanager
async def serving(session: Session, limits: WebLimits | None = None) -> AsyncIterator[WebServer]:
    async def serve(stream: WebSocketStream, tap: Tap, options: SessionOptions) -> SessionEnd:
        await session(stream)
        return SessionEnd(EndReason.LEFT, "left", admitted=True)

    async with WebServer([SyntheticTap()], limits=limits, serve=serve) as server:
        yield server


@asynccontextmanager
async def connected(session: Session) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    async with (
        serving(session) as server,
        aiohttp.ClientSession() as client,
        client.ws_connect(f"http://127.0.0.1:{server.port}/t/0/websockify", max_msg_size=0) as channel,
    ):
        yield channel


async def echo(stream: WebSocketStream) -> None:
    while data := await stream.receive():
        await stream.send([data])


async def test_messages_carry_bytes_both_ways() -> None:
    async with connected(echo) as channel:
        for data in (b"RFB 003.008\n", bytes(range(256)), b"\0" * 10_000):
            await channel.send_bytes(data)
            assert await channel.receive_bytes() == data


async def test_empty_message_does_not_end_the_stream() -> None:
    async with connected(echo) as channel:
        await channel.send_bytes(b"")
        await channel.send_bytes(b"x")
        assert await channel.receive_bytes() == b"x"


async def test_close_by_the_client_ends_the_stream() -> None:
    received: asyncio.Queue[bytes] = asyncio.Queue()

    async def listen(stream: WebSocketStream) -> None:
        received.put_nowait(await stream.receive())

    async with connected(listen) as channel:
        await channel.close()
        assert await received.get() == b""


async def test_text_message_closes_the_stream_with_a_reason() -> None:
    async with connected(echo) as channel:
        await channel.send_str("RFB 003.008\n")
        closing = await channel.receive()
        assert closing.data == aiohttp.WSCloseCode.UNSUPPORTED_DATA
        assert closing.extra == "RFB needs binary messages"


async def test_message_beyond_the_limit_closes_the_stream() -> None:
    async with connected(echo) as channel:
        await channel.send_bytes(bytes(MAX_MESSAGE_BYTES + 1))
        assert (await channel.receive()).data == aiohttp.WSCloseCode.MESSAGE_TOO_BIG


async def test_messages_are_not_compressed() -> None:
    async with connected(echo) as channel:
        assert not channel.compress


async def test_buffers_are_joined_and_cut_into_messages_of_bounded_size() -> None:
    whole = bytes(range(256)) * 2000

    async def talk(stream: WebSocketStream) -> None:
        view = memoryview(whole)
        await stream.send([whole[:1], bytearray(whole[1:7]), b"", view[7:]])
        await stream.receive()

    async with connected(talk) as channel:
        got: list[bytes] = []
        while sum(map(len, got)) < len(whole):
            got.append(await channel.receive_bytes())
        assert b"".join(got) == whole
        assert [len(message) for message in got[:-1]] == [CHUNK_BYTES] * (len(got) - 1)


@given(st.lists(st.integers(0, 3 * CHUNK_BYTES // 2), max_size=6))
def test_chunks_keep_every_byte_in_order(sizes: list[int]) -> None:
    buffers = [bytes([n]) * size for n, size in enumerate(sizes)]
    chunks = list(web_stream._chunks(buffers))
    assert b"".join(chunks) == b"".join(buffers)
    assert all(0 < len(chunk) <= CHUNK_BYTES for chunk in chunks)


async def test_sent_buffer_may_be_changed_afterwards() -> None:
    async def talk(stream: WebSocketStream) -> None:
        buffer = bytearray(b"before" * 10_000)
        await stream.send([buffer])
        buffer[:] = b"after." * 10_000
        await stream.receive()

    async with connected(talk) as channel:
        assert await channel.receive_bytes() == b"before" * 10_000


async def test_viewer_that_never_reads_holds_bounded_memory_and_is_cut_off() -> None:
    megabyte = bytes(1 << 20)
    sent: list[int] = []
    sending = asyncio.Event()
    ended = asyncio.Event()

    async def flood(stream: WebSocketStream) -> None:
        try:
            for _ in range(64):
                sending.set()
                await stream.send([megabyte])
                sent.append(len(megabyte))
        finally:
            ended.set()

    async with serving(flood, WebLimits(close_s=0.05)) as server:
        status, _, writer = await handshake(server.port, "/t/0/websockify", receive_bytes=4096)
        assert status.startswith(b"HTTP/1.1 101")
        await sending.wait()
        await server.close()
        await ended.wait()
        writer.close()
    assert len(sent) <= 2


async def test_stalled_viewer_does_not_delay_another() -> None:

    async def talk(stream: WebSocketStream) -> None:
        while data := await stream.receive():
            for _ in range(64 if data == b"flood" else 1):
                await stream.send([data * (1 << 18)])

    async with serving(talk, WebLimits(close_s=0.05)) as server:
        _, _, writer = await handshake(server.port, "/t/0/websockify", receive_bytes=4096)
        writer.write(b"\x82\x85\0\0\0\0flood")  # RFC 6455, 5.2: final, binary, masked, 5 bytes, mask 0
        async with (
            aiohttp.ClientSession() as client,
            client.ws_connect(f"http://127.0.0.1:{server.port}/t/0/websockify") as channel,
        ):
            for _ in range(20):
                await channel.send_bytes(b"x")
                assert sum([len(await channel.receive_bytes()) for _ in range(2)]) == 1 << 18
        writer.close()


def test_close_reason_is_cut_between_characters() -> None:
    reason = web_stream._close_reason("é" * 200)
    assert len(reason) == MAX_REASON_BYTES - 1
    assert reason.decode() == "é" * (len(reason) // 2)
    assert web_stream._close_reason("short") == b"short"


async def test_kernel_holds_bounded_unsent_bytes() -> None:
    kept: asyncio.Queue[int] = asyncio.Queue()

    async def talk(stream: WebSocketStream) -> None:
        channel = stream.response.get_extra_info("socket")
        kept.put_nowait(channel.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT))

    async with connected(talk):
        assert await kept.get() == UNSENT_BYTES
