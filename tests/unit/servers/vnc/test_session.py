"""Sessions: input, changes of size, pixels, stalled viewers, and how a session ends."""

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
from support.vnc_serving import connect, ends, off, until_connections, until_empty
from vramtap.display.region import Rect
from vramtap.errors import KernelError
from vramtap.keyboard.events import KeyEvent, PointerEvent
from vramtap.servers.vnc.server import VncServer
from vramtap.servers.vnc.session import EndReason, SessionOptions, serve_session

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vramtap.rfb.wire import Buffer

SCREEN = picture("patches", 320, 200)


# Input


async def test_key_and_pointer_events_reach_the_target_in_order(
    server: VncServer, received_input: RecordingInput
) -> None:
    with await connect(server, RAW, QEMU_KEY) as client:
        await off(client.refresh)
        assert client.can_send_scancodes
        client.key(0x61, down=True)
        client.key(0x61, down=False)
        client.pointer(10, 20, 1)
        client.pointer(65535, 200, 0)
        client.key(0xFFE4, down=True, scancode=0xE01D)
        client.key(0xFFE4, down=False, scancode=0x9D)
        assert await received_input.until(6) == [
            KeyEvent(keysym=0x61, down=True),
            KeyEvent(keysym=0x61, down=False),
            (PointerEvent(10, 20, 1), 320, 200),
            (PointerEvent(319, 199, 0), 320, 200),
            KeyEvent(keysym=0xFFE4, down=True, scancode=0x9D),
            KeyEvent(keysym=0xFFE4, down=False, scancode=0x9D),
        ]


async def test_keys_of_a_client_that_left_still_reach_the_target(
    server: VncServer, received_input: RecordingInput
) -> None:
    received_input.gate.clear()
    with await connect(server) as client:
        for letter in b"reboot":
            client.key(letter, down=True)
            client.key(letter, down=False)
        client.key(0xFF0D, down=True)
    await received_input.reached.wait()
    received_input.gate.set()
    await until_empty(server)
    typed = [event.keysym for event in received_input.received if isinstance(event, KeyEvent) and event.down]
    assert bytes(typed[:6]) == b"reboot"
    assert received_input.received[-2:] == [KeyEvent(keysym=0xFF0D, down=True), "release_all"]


async def test_blocked_input_does_not_delay_updates(
    server: VncServer, tap: SyntheticTap, received_input: RecordingInput
) -> None:
    received_input.gate.clear()
    with await connect(server) as client:
        client.key(0x61, down=True)
        await received_input.reached.wait()
        for colour in range(5):
            tap.draw(Rect(0, 0, 64, 64), colour)
            await off(client.refresh)
            assert np.array_equal(client.pixels, tap.screen.pixels)
        received_input.gate.set()
        assert await received_input.until(1) == [KeyEvent(keysym=0x61, down=True)]


async def test_view_only_session_ignores_input(tap: SyntheticTap, received_input: RecordingInput) -> None:
    async with VncServer(tap, port=0, options=SessionOptions(view_only=True)) as server:
        with await connect(server) as client:
            client.key(0x61, down=True)
            client.pointer(1, 1, 1)
            await off(client.refresh)
        await until_empty(server)
    assert received_input.received == []


async def test_target_without_input_is_served() -> None:
    async with VncServer(SyntheticTap(SCREEN), port=0) as server:
        with await connect(server) as client:
            client.key(0x61, down=True)
            client.pointer(1, 1, 1)
            await off(client.refresh)
            assert np.array_equal(client.pixels, SCREEN)


async def test_keys_are_released_only_when_the_client_that_holds_them_leaves(
    server: VncServer, received_input: RecordingInput
) -> None:
    with await connect(server) as holding, await connect(server) as watching:
        holding.key(0xFFE1, down=True)
        await received_input.until(1)
        watching.close()
        await off(holding.refresh)
        assert received_input.received == [KeyEvent(keysym=0xFFE1, down=True)]
    await until_empty(server)
    assert received_input.received == [KeyEvent(keysym=0xFFE1, down=True), "release_all"]


# Size


@pytest.mark.parametrize("encoding", [DESKTOP_SIZE, EXTENDED_DESKTOP_SIZE])
@pytest.mark.parametrize("shape", [(400, 100), (100, 300), (1, 1), (640, 480)], ids=str)
async def test_client_follows_the_size_of_the_screen(
    server: VncServer, tap: SyntheticTap, encoding: int, shape: tuple[int, int]
) -> None:
    with await connect(server, ZRLE, COPY_RECT, encoding) as client:
        await off(client.refresh)
        tap.resize(picture("noise", *shape))
        await off(client.refresh)
        assert (client.width, client.height) == shape
        assert np.array_equal(client.pixels, tap.screen.pixels)


@pytest.mark.parametrize("shape", [(400, 300), (100, 50), (400, 50)], ids=str)
async def test_client_that_cannot_resize_gets_what_fits_and_black(
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


async def test_handshake_announces_the_current_size(server: VncServer, tap: SyntheticTap) -> None:
    """The size changed while no viewer waited. gvnccapture sends one request and keeps the announced size."""
    tap.unseen = picture("noise", 400, 300)
    with await connect(server, RAW, DESKTOP_SIZE) as client:
        assert (client.width, client.height) == (400, 300)
        client.request(incremental=False)
        await off(client.wait_update)
        assert np.array_equal(client.pixels, tap.screen.pixels)


async def test_set_desktop_size_is_refused_without_waiting_for_a_request(server: VncServer) -> None:
    with await connect(server, RAW, EXTENDED_DESKTOP_SIZE) as client:
        client.set_desktop_size(1024, 768)
        update = await off(client.wait_update)
        assert update.pseudo == [(1, 1, 320, 200, EXTENDED_DESKTOP_SIZE)]
        assert not update.resized


# Pixels


async def test_new_pixel_format_applies_from_the_next_request(server: VncServer) -> None:
    with await connect(server, ZRLE) as client:
        for wanted in (RGB565, PixelFormat(big_endian=True), RGB565):
            client.set_format(wanted)
            await off(client.refresh, incremental=False)
            assert np.array_equal(client.decoder.values, expected_values(SCREEN, wanted))


async def test_scrolled_pixels_are_sent_as_copy_rect(server: VncServer, tap: SyntheticTap) -> None:
    with await connect(server, TIGHT, COPY_RECT) as client:
        await off(client.refresh)
        tap.copy_area(Rect(0, 16, 320, 176), 0, 0)
        update = await off(client.refresh)
        assert [rect[4] for rect in update.rects] == [COPY_RECT]
        assert np.array_equal(client.pixels, tap.screen.pixels)


# Viewers that do not read


async def test_stalled_viewer_gets_fewer_newer_updates_and_delays_no_other(
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
    """Return a connection with a small receive buffer."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
    connection.connect(("127.0.0.1", port))
    return connection


async def test_stalled_viewer_that_leaves_ends_its_session(server: VncServer, tap: SyntheticTap) -> None:
    tap.resize(picture("noise", 1280, 1024))
    stalled = RfbClient(_small_socket(server.port))
    await off(stalled.handshake, None)
    stalled.request()
    await off(stalled.read, 1)
    stalled.close()
    await until_empty(server)
    assert tap.viewers == 0


async def test_unsent_update_of_a_stalled_viewer_is_freed_when_it_leaves(
    server: VncServer, tap: SyntheticTap
) -> None:
    tap.resize(picture("noise", 1280, 1024))
    size_bytes = tap.screen.pixels.nbytes
    gc.disable()
    tracemalloc.start()
    try:
        stalled = RfbClient(_small_socket(server.port))
        await off(stalled.handshake, None)
        stalled.request()
        await off(stalled.read, 1)
        # The server holds one update, and the client has its framebuffer.
        assert tracemalloc.get_traced_memory()[0] > 1.5 * size_bytes
        stalled.close()
        await until_empty(server)
        assert tracemalloc.get_traced_memory()[0] < 1.5 * size_bytes
    finally:
        tracemalloc.stop()
        gc.enable()


# The target's end, and streams other than sockets


async def test_end_of_the_target_ends_every_waiting_session(
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
    assert ends(caplog) == [("target-gone", "tap demo:unit: QEMU (pid 812) exited")] * 3


async def test_read_error_of_the_target_ends_the_session_with_that_error(
    server: VncServer, tap: SyntheticTap, caplog: pytest.LogCaptureFixture
) -> None:
    with await connect(server) as client:
        client.request()
        tap.fail(KernelError("process_vm_readv", "pid 812", 1))
        await until_empty(server)
    assert ends(caplog) == [("failed", "process_vm_readv pid 812: EPERM")]


async def test_defect_is_logged_and_ends_one_session_only(
    server: VncServer, tap: SyntheticTap, caplog: pytest.LogCaptureFixture
) -> None:
    with await connect(server) as client, await connect(server) as other:
        await off(other.refresh)
        tap.error = ZeroDivisionError("a defect")
        client.request()
        await until_connections(server, 1)
        tap.error = None
        tap.draw(Rect(0, 0, 9, 9), 0)
        await off(other.refresh)
        assert np.array_equal(other.pixels, tap.screen.pixels)
    assert "a defect of vramtap ended a session" in caplog.text
    assert "ZeroDivisionError: a defect" in caplog.text


class Pipe:
    """A `ByteStream` that receives given bytes and records what the session sends.

    Args:
        received: Results of `receive`, in order; then the stream ends.
    """

    peer = "a test"

    def __init__(self, *received: bytes) -> None:
        self._received = list(received)
        self.sent = bytearray()

    async def receive(self) -> bytes:
        await asyncio.sleep(0)
        return self._received.pop(0) if self._received else b""

    async def send(self, buffers: Iterable[Buffer]) -> None:
        for buffer in buffers:
            self.sent += buffer


async def test_session_works_over_any_byte_stream(tap: SyntheticTap) -> None:
    stream = Pipe(b"RFB 003.00", b"8\n\1", b"\1")
    end = await serve_session(stream, tap, SessionOptions())
    assert (end.reason, end.admitted) == (EndReason.LEFT, True)
    assert stream.sent.startswith(b"RFB 003.008\n\1\1\0\0\0\0" + bytes.fromhex("0140 00c8 20 18"))


async def test_flood_of_messages_does_not_block_the_event_loop(tap: SyntheticTap) -> None:
    class Flood(Pipe):
        rounds = 0

        async def receive(self) -> bytes:
            if self._received:
                return self._received.pop(0)
            self.rounds += 1
            return b"" if loop_went_on.is_set() or self.rounds > 1000 else bytes([5, 0, 0, 0, 0, 0]) * 100

    loop_went_on = asyncio.Event()
    flood = Flood(b"RFB 003.008\n\1\1")
    session = asyncio.create_task(serve_session(flood, tap, SessionOptions()))
    for _ in range(20):
        await asyncio.sleep(0)
    loop_went_on.set()
    await session
    assert flood.rounds < 40


async def test_broken_stream_ends_the_session_as_lost(tap: SyntheticTap) -> None:
    class Broken(Pipe):
        async def send(self, buffers: Iterable[Buffer]) -> None:
            raise ConnectionResetError(104, "Connection reset by peer")

    end = await serve_session(Broken(), tap, SessionOptions())
    assert (end.reason, end.admitted) == (EndReason.LOST, False)
    assert end.detail == "connection lost: Connection reset by peer"
