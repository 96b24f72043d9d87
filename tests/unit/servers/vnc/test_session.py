"""A session: input on its way to the target, sizes, and viewers that do not slow each other."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import tracemalloc
from typing import TYPE_CHECKING

import numpy as np
import pytest

from support.pictures import RGB565, expected_values, picture
from support.rfb_client import (
    COPY_RECT,
    DESKTOP_SIZE,
    EXTENDED_DESKTOP_SIZE,
    QEMU_KEY,
    RAW,
    TIGHT,
    ZRLE,
    PixelFormat,
    RfbClient,
)
from support.synthetic_tap import RecordingInput, SyntheticTap
from support.vnc_serving import connect, off, until_empty
from vramtap.display.region import Rect
from vramtap.errors import KernelError
from vramtap.keyboard.events import KeyEvent, PointerEvent
from vramtap.servers.vnc.server import VncServer
from vramtap.servers.vnc.session import EndReason, SessionOptions, serve_session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from vramtap.rfb.wire import Buffer

SCREEN = picture("patches", 320, 200)


@pytest.fixture
def taker() -> RecordingInput:
    return RecordingInput()


@pytest.fixture
def tap(taker: RecordingInput) -> SyntheticTap:
    return SyntheticTap(SCREEN, taker)


@pytest.fixture
async def server(tap: SyntheticTap) -> AsyncIterator[VncServer]:
    async with VncServer(tap, port=0) as server:
        yield server


# Input


async def test_keys_and_pointer_reach_the_target_in_order_and_on_the_screen(
    server: VncServer, taker: RecordingInput
) -> None:
    with await connect(server, RAW, QEMU_KEY) as client:
        await off(client.refresh)
        assert client.can_send_scancodes
        client.key(0x61, True)
        client.key(0x61, False)
        client.pointer(10, 20, 1)
        client.pointer(65535, 200, 0)
        client.key(0xFFE4, True, 0xE01D)
        client.key(0xFFE4, False, 0x9D)
        assert await taker.until(6) == [
            KeyEvent(keysym=0x61, down=True),
            KeyEvent(keysym=0x61, down=False),
            (PointerEvent(10, 20, 1), 320, 200),
            (PointerEvent(319, 199, 0), 320, 200),
            KeyEvent(keysym=0xFFE4, down=True, scancode=0x9D),
            KeyEvent(keysym=0xFFE4, down=False, scancode=0x9D),
        ]


async def test_what_a_client_typed_before_it_hung_up_still_arrives(
    server: VncServer, taker: RecordingInput
) -> None:
    taker.gate.clear()
    with await connect(server) as client:
        for letter in b"reboot":
            client.key(letter, True)
            client.key(letter, False)
        client.key(0xFF0D, True)
    await taker.waiting.wait()
    taker.gate.set()
    await until_empty(server)
    typed = [event.keysym for event in taker.taken if isinstance(event, KeyEvent) and event.down]
    assert bytes(typed[:6]) == b"reboot"
    assert taker.taken[-2:] == [KeyEvent(keysym=0xFF0D, down=True), "release_all"]


async def test_a_hanging_target_holds_up_no_picture(
    server: VncServer, tap: SyntheticTap, taker: RecordingInput
) -> None:
    taker.gate.clear()
    with await connect(server) as client:
        client.key(0x61, True)
        await taker.waiting.wait()
        for colour in range(5):
            tap.draw(Rect(0, 0, 64, 64), colour)
            await off(client.refresh)
            assert np.array_equal(client.pixels, tap.screen.pixels)
        taker.gate.set()
        assert await taker.until(1) == [KeyEvent(keysym=0x61, down=True)]


async def test_who_may_only_watch_is_not_heard(tap: SyntheticTap, taker: RecordingInput) -> None:
    async with VncServer(tap, port=0, options=SessionOptions(view_only=True)) as server:
        with await connect(server) as client:
            client.key(0x61, True)
            client.pointer(1, 1, 1)
            await off(client.refresh)
        await until_empty(server)
    assert taker.taken == []


async def test_a_target_without_input_is_watched_all_the_same() -> None:
    async with VncServer(SyntheticTap(SCREEN), port=0) as server:
        with await connect(server) as client:
            client.key(0x61, True)
            client.pointer(1, 1, 1)
            await off(client.refresh)
            assert np.array_equal(client.pixels, SCREEN)


async def test_who_leaves_releases_only_if_it_holds(server: VncServer, taker: RecordingInput) -> None:
    with await connect(server) as holding, await connect(server) as watching:
        holding.key(0xFFE1, True)
        await taker.until(1)
        watching.close()
        await off(holding.refresh)
        assert taker.taken == [KeyEvent(keysym=0xFFE1, down=True)]
    await until_empty(server)
    assert taker.taken == [KeyEvent(keysym=0xFFE1, down=True), "release_all"]


# Size


@pytest.mark.parametrize("encoding", [DESKTOP_SIZE, EXTENDED_DESKTOP_SIZE])
@pytest.mark.parametrize("shape", [(400, 100), (100, 300), (1, 1), (640, 480)], ids=str)
async def test_clients_follow_the_size(
    server: VncServer, tap: SyntheticTap, encoding: int, shape: tuple[int, int]
) -> None:
    with await connect(server, ZRLE, COPY_RECT, encoding) as client:
        await off(client.refresh)
        tap.resize(picture("noise", *shape))
        await off(client.refresh)
        assert (client.width, client.height) == shape
        assert np.array_equal(client.pixels, tap.screen.pixels)


@pytest.mark.parametrize("shape", [(400, 300), (100, 50), (400, 50)], ids=str)
async def test_who_cannot_follow_gets_what_fits_and_black(
    server: VncServer, tap: SyntheticTap, shape: tuple[int, int]
) -> None:
    with await connect(server) as client:
        await off(client.refresh)
        tap.resize(picture("noise", *shape))
        expected = np.zeros_like(SCREEN)
        shown = tap.screen.pixels[:200, :320]
        expected[: shown.shape[0], : shown.shape[1]] = shown
        while not np.array_equal(client.pixels, expected):
            await off(client.refresh)
        tap.resize(SCREEN)
        await off(client.refresh)
        assert np.array_equal(client.pixels, SCREEN)


async def test_the_size_told_first_is_the_size_there_is(server: VncServer, tap: SyntheticTap) -> None:
    """While nobody looked it became another; gvnccapture asks once, and lives with what it was told."""
    tap.unseen = picture("noise", 400, 300)
    with await connect(server, RAW, DESKTOP_SIZE) as client:
        assert (client.width, client.height) == (400, 300)
        client.request(incremental=False)
        await off(client.wait_update)
        assert np.array_equal(client.pixels, tap.screen.pixels)


async def test_a_size_that_a_client_wants_is_refused_without_a_request(server: VncServer) -> None:
    with await connect(server, RAW, EXTENDED_DESKTOP_SIZE) as client:
        client.set_desktop_size(1024, 768)
        update = await off(client.wait_update)
        assert update.pseudo == [(1, 1, 320, 200, EXTENDED_DESKTOP_SIZE)]
        assert not update.resized


# Pixels


async def test_a_change_of_format_counts_from_the_next_request(server: VncServer, tap: SyntheticTap) -> None:
    with await connect(server, ZRLE) as client:
        for wanted in (RGB565, PixelFormat(big_endian=True), RGB565):
            client.set_format(wanted)
            await off(client.refresh, False)
            assert np.array_equal(client.decoder.values, expected_values(SCREEN, wanted))


async def test_scrolled_pixels_are_copied_by_the_client(server: VncServer, tap: SyntheticTap) -> None:
    with await connect(server, TIGHT, COPY_RECT) as client:
        await off(client.refresh)
        tap.move(Rect(0, 16, 320, 176), 0, 0)
        update = await off(client.refresh)
        assert [rect[4] for rect in update.rects] == [COPY_RECT]
        assert np.array_equal(client.pixels, tap.screen.pixels)


# Viewers that do not read


async def test_a_stalled_viewer_gets_few_and_new_updates_and_slows_nobody(
    server: VncServer, tap: SyntheticTap, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    screen = picture("noise", 1280, 1024)
    tap.resize(screen)
    stalled = RfbClient(_small_socket(server.port))
    await off(stalled.handshake, None)
    for _ in range(200):
        stalled.request(incremental=False)
    with await connect(server) as reading:
        for number in range(30):
            tap.draw(Rect(0, 0, 1280, 1024), screen ^ np.uint32(number))
            await off(reading.refresh)
            assert np.array_equal(reading.pixels, tap.screen.pixels)
        first = await off(stalled.wait_update)
        assert not np.array_equal(stalled.pixels, tap.screen.pixels)
        await off(stalled.refresh)
        assert np.array_equal(stalled.pixels, tap.screen.pixels)
        assert first.size_bytes < screen.nbytes + 1000
    stalled.close()
    await until_empty(server)
    updates = {vars(record)["updates"] for record in caplog.records if hasattr(record, "updates")}
    assert min(updates) <= 3
    assert max(updates) == 30


def _small_socket(port: int) -> socket.socket:
    """A connection whose kernel takes little in."""
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
    one.connect(("127.0.0.1", port))
    return one


async def test_a_stalled_viewer_that_goes_is_noticed(server: VncServer, tap: SyntheticTap) -> None:
    tap.resize(picture("noise", 1280, 1024))
    stalled = RfbClient(_small_socket(server.port))
    await off(stalled.handshake, None)
    stalled.request()
    await off(stalled.read, 1)
    stalled.close()
    await until_empty(server)
    assert tap.viewers == []


async def test_what_a_stalled_viewer_did_not_take_goes_with_it(server: VncServer, tap: SyntheticTap) -> None:
    tap.resize(picture("noise", 1280, 1024))
    size_bytes = tap.screen.pixels.nbytes
    gc.disable()
    tracemalloc.start()
    try:
        stalled = RfbClient(_small_socket(server.port))
        await off(stalled.handshake, None)
        stalled.request()
        await off(stalled.read, 1)
        # Beside what the server holds, the client has a framebuffer.
        assert tracemalloc.get_traced_memory()[0] > 1.5 * size_bytes
        stalled.close()
        await until_empty(server)
        assert tracemalloc.get_traced_memory()[0] < 1.5 * size_bytes
    finally:
        tracemalloc.stop()
        gc.enable()


# The end of the target, and streams that are no socket


async def test_the_targets_end_ends_every_session_that_waits(
    server: VncServer, tap: SyntheticTap, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    clients = [await connect(server) for _ in range(3)]
    for client in clients:
        await off(client.refresh)
        client.request()
    tap.end("QEMU (pid 812) exited")
    await until_empty(server)
    for client in clients:
        client.close()
    ends = [vars(record) for record in caplog.records if hasattr(record, "cause")]
    assert [end["cause"] for end in ends] == ["target-gone"] * 3
    assert {end["reason"] for end in ends} == {"tap synthetic: QEMU (pid 812) exited"}


async def test_a_target_that_cannot_be_read_ends_the_session_with_that_reason(
    server: VncServer, tap: SyntheticTap, caplog: pytest.LogCaptureFixture
) -> None:
    with await connect(server) as client:
        client.request()
        tap.fail(KernelError("process_vm_readv", "pid 812", 1))
        await until_empty(server)
    (end,) = [vars(record) for record in caplog.records if hasattr(record, "cause")]
    assert (end["cause"], end["reason"]) == ("failed", "process_vm_readv pid 812: EPERM")


async def test_a_defect_is_logged_and_costs_one_client_only(
    server: VncServer, tap: SyntheticTap, caplog: pytest.LogCaptureFixture
) -> None:
    with await connect(server) as client, await connect(server) as other:
        await off(other.refresh)
        tap.error = ZeroDivisionError("a defect")
        client.request()
        await asyncio.wait_for(server.until_left(1), 10)
        tap.error = None
        tap.draw(Rect(0, 0, 9, 9), 0)
        await off(other.refresh)
        assert np.array_equal(other.pixels, tap.screen.pixels)
    assert "a defect of vramtap ended a session" in caplog.text
    assert "ZeroDivisionError: a defect" in caplog.text


class Pipe:
    """A `ByteStream` of what a test puts in."""

    peer = "a test"

    def __init__(self, *said: bytes) -> None:
        self._said = list(said)
        self.sent = bytearray()

    async def receive(self) -> bytes:
        await asyncio.sleep(0)
        return self._said.pop(0) if self._said else b""

    async def send(self, buffers: Iterable[Buffer]) -> None:
        for buffer in buffers:
            self.sent += buffer


async def test_any_byte_stream_will_do(tap: SyntheticTap) -> None:
    stream = Pipe(b"RFB 003.00", b"8\n\1", b"\1")
    departure = await serve_session(stream, tap, SessionOptions())
    assert (departure.cause, departure.admitted) == (EndReason.LEFT, True)
    assert stream.sent.startswith(b"RFB 003.008\n\1\1\0\0\0\0" + bytes.fromhex("0140 00c8 20 18"))


async def test_a_flood_leaves_the_loop_to_others(tap: SyntheticTap) -> None:
    class Flood(Pipe):
        rounds = 0

        async def receive(self) -> bytes:
            if self._said:
                return self._said.pop(0)
            self.rounds += 1
            return b"" if others_turn.is_set() or self.rounds > 1000 else bytes([5, 0, 0, 0, 0, 0]) * 100

    others_turn = asyncio.Event()
    flood = Flood(b"RFB 003.008\n\1\1")
    session = asyncio.create_task(serve_session(flood, tap, SessionOptions()))
    for _ in range(20):
        await asyncio.sleep(0)
    others_turn.set()
    await session
    assert flood.rounds < 40


async def test_a_stream_that_breaks_is_a_lost_client(tap: SyntheticTap) -> None:
    class Breaking(Pipe):
        async def send(self, buffers: Iterable[Buffer]) -> None:
            raise ConnectionResetError(104, "Connection reset by peer")

    departure = await serve_session(Breaking(), tap, SessionOptions())
    assert (departure.cause, departure.admitted) == (EndReason.LOST, False)
    assert departure.reason == "connection lost: Connection reset by peer"
