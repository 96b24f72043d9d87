"""VncServer: addresses and passwords, limits, and sessions of several clients."""

from __future__ import annotations

import asyncio
import logging
import socket

import numpy as np
import pytest

from support.pictures import picture
from support.rfb_client import (
    COPY_RECT,
    JPEG_QUALITY_0,
    RAW,
    TIGHT,
    ZRLE,
    Broken,
    PixelFormat,
    Rejected,
    RfbClient,
)
from support.synthetic_tap import RecordingInput, SyntheticTap
from support.vnc_serving import connect, details, off, until_connections, until_empty
from vramtap.display.region import Rect
from vramtap.errors import ListenError, UsageError
from vramtap.servers.vnc.server import VncServer
from vramtap.servers.vnc.session import SessionOptions
from vramtap.servers.vnc.throttle import FREE_FAILURES

SCREEN = picture("patches", 320, 200)
NO_DELAY = SessionOptions(password="secret", failure_delay_s=0)


@pytest.mark.parametrize("encodings", [(RAW,), (ZRLE,), (TIGHT,), (COPY_RECT, TIGHT, ZRLE)], ids=str)
@pytest.mark.parametrize("version", [(3, 3), (3, 7), (3, 8)], ids=str)
@pytest.mark.parametrize("password", [None, "secret"])
async def test_client_shows_the_screen_and_its_changes(
    encodings: tuple[int, ...], version: tuple[int, int], password: str | None
) -> None:
    tap = SyntheticTap(SCREEN)
    async with VncServer(tap, port=0, options=SessionOptions("a guest", password)) as server:
        with await connect(server, *encodings, version=version, password=password) as client:
            await off(client.refresh, incremental=False)
            assert client.name == "a guest"
            assert np.array_equal(client.pixels, SCREEN)
            tap.draw(Rect(30, 40, 50, 60), picture("noise", 50, 60))
            update = await off(client.refresh)
            assert np.array_equal(client.pixels, tap.screen.pixels)
            assert {rect[4] for rect in update.rects} == {next(e for e in encodings if e != COPY_RECT)}


async def test_clients_with_different_options_show_the_same_screen() -> None:
    tap = SyntheticTap(SCREEN)
    async with VncServer(tap, port=0) as server:
        clients = [
            await connect(server, RAW),
            await connect(server, ZRLE, pixel_format=PixelFormat(big_endian=True)),
            await connect(server, TIGHT, pixel_format=PixelFormat(shifts=(0, 8, 16)), shared=False),
        ]
        for colour in range(3):
            tap.draw(Rect(colour, 0, 100, 100), colour)
            for client in clients:
                await off(client.refresh)
                assert np.array_equal(client.pixels, tap.screen.pixels)
        for client in clients:
            client.close()


@pytest.mark.parametrize("version", [(3, 3), (3, 7), (3, 8)], ids=str)
async def test_wrong_password_is_answered_after_a_delay_and_logged(
    version: tuple[int, int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    delays: list[float] = []
    real_sleep = asyncio.sleep

    async def sleep(seconds: float) -> None:
        delays.append(seconds)
        await real_sleep(0)

    options = SessionOptions(password="secret", failure_delay_s=1234.5, handshake_s=10_000)
    async with VncServer(SyntheticTap(SCREEN), port=0, options=options) as server:
        monkeypatch.setattr(asyncio, "sleep", sleep)
        with pytest.raises(Rejected, match="Authentication failed" if version == (3, 8) else "^$"):
            await connect(server, password="Secret", version=version)
        monkeypatch.undo()
        await until_empty(server)
    assert 1234.5 in delays
    assert details(caplog) == ["wrong password"]


async def test_address_with_too_many_wrong_passwords_is_rejected(caplog: pytest.LogCaptureFixture) -> None:
    async with VncServer(SyntheticTap(SCREEN), port=0, options=NO_DELAY) as server:
        for _ in range(FREE_FAILURES + 1):
            with pytest.raises(Rejected):
                await connect(server, password="guess")
            # A connection without a password does not reset the count.
            socket.create_connection(("127.0.0.1", server.port)).close()
            await until_empty(server)
        with pytest.raises((Broken, ConnectionError)):
            await connect(server, password="secret")
    assert details(caplog)[-1].startswith("too many wrong passwords, next try in")


async def test_right_password_resets_the_failure_count(caplog: pytest.LogCaptureFixture) -> None:
    async with VncServer(SyntheticTap(SCREEN), port=0, options=NO_DELAY) as server:
        for _ in range(2 * FREE_FAILURES):
            with pytest.raises(Rejected):
                await connect(server, password="guess")
            (await connect(server, password="secret")).close()
            await until_empty(server)
    assert not [detail for detail in details(caplog) if "too many" in detail]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.1"])
async def test_address_other_than_loopback_requires_a_password(host: str) -> None:
    with pytest.raises(UsageError, match=r"no password is set \(set a VNC password, or listen on 127"):
        async with VncServer(SyntheticTap(SCREEN), host, 0):
            pytest.fail("the server listens")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1.2.3"])
async def test_loopback_requires_no_password(host: str) -> None:
    async with VncServer(SyntheticTap(SCREEN), host, 0) as server:
        address = server.addresses[0][0]
        with await off(RfbClient.connect, address, server.port) as client:
            await off(client.refresh)
            assert np.array_equal(client.pixels, SCREEN)


async def test_server_with_password_listens_on_every_address() -> None:
    async with VncServer(SyntheticTap(SCREEN), "0.0.0.0", 0, NO_DELAY) as server:
        with await connect(server, password="secret") as client:
            assert client.width == 320


@pytest.mark.parametrize("password", ["", "päss"])
def test_invalid_password_is_a_usage_error(password: str) -> None:
    with pytest.raises(UsageError, match="VNC password"):
        VncServer(SyntheticTap(SCREEN), options=SessionOptions(password=password))


def test_long_password_logs_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    VncServer(SyntheticTap(SCREEN), options=SessionOptions(password="correct horse"))
    assert "only the first 8 characters" in caplog.text


async def test_busy_port_and_unknown_name_raise_listen_error() -> None:
    tap = SyntheticTap(SCREEN)
    async with VncServer(tap, port=0) as server:
        with pytest.raises(
            ListenError, match=r"listen 127.0.0.1:\d+: Address already in use .choose another port"
        ):
            await VncServer(tap, port=server.port).__aenter__()
    with pytest.raises(ListenError, match=r"listen no\.such\.host\.invalid:0"):
        await VncServer(tap, "no.such.host.invalid", 0).__aenter__()


async def test_connections_beyond_the_limit_are_rejected(caplog: pytest.LogCaptureFixture) -> None:
    tap = SyntheticTap(SCREEN)
    async with VncServer(tap, port=0, max_connections=5) as server:
        first = await connect(server)
        crowd = await off(lambda: [socket.create_connection(("127.0.0.1", server.port)) for _ in range(199)])
        closed = 0
        for connection in crowd:
            connection.settimeout(10)
            greeting = await off(_receive, connection)
            closed += not greeting
        assert closed == 195
        assert server.connections == 5
        await off(first.refresh)
        assert np.array_equal(first.pixels, SCREEN)
        for connection in crowd:
            connection.close()
        await until_connections(server, 1)
        with await connect(server) as another:
            await off(another.refresh)
        first.close()
        await until_empty(server)
    assert details(caplog).count("5 clients are connected already") == 195


def _receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(12)
    except ConnectionResetError:
        return b""


@pytest.mark.parametrize("sent", [b"", b"RFB 003.008\n", b"RFB 003.008\n\2"])
async def test_handshake_that_takes_too_long_is_ended(sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    options = SessionOptions(password="secret", handshake_s=0.02, password_s=0.02)
    async with VncServer(SyntheticTap(SCREEN), port=0, options=options) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(sent)
            connection.settimeout(10)
            while await off(connection.recv, 100):
                pass
        await until_empty(server)
    assert details(caplog) == ["no complete handshake within 0.04 s"]


@pytest.mark.parametrize(
    ("sent", "reason", "detail"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "broke-protocol", "not an RFB version"),
        (b"RFB 003.008\n\1\1\xaa", "broke-protocol", "read message type 170"),
        (b"RFB 003.008\n\1\1\2\0\xff\xff", "broke-protocol", "65535 encodings"),
        (b"RFB 003.008\n\1\1\6\0\0\0\x7f\xff\xff\xff", "broke-protocol", "2147483647 bytes"),
        (b"RFB 003.008\n\1\1", "left", "the client closed the connection"),
        (b"RFB 003.0", "left", "the client closed the connection"),
    ],
)
async def test_session_end_is_logged_with_its_reason(
    sent: bytes, reason: str, detail: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    tap = SyntheticTap(SCREEN)
    async with VncServer(tap, port=0) as server:
        other = await connect(server)
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            peer = "{}:{}".format(*connection.getsockname())
            connection.sendall(sent)
            if reason == "left":
                connection.shutdown(socket.SHUT_WR)
            connection.settimeout(10)
            while await off(_receive, connection):
                pass
        (record,) = [vars(entry) for entry in caplog.records if hasattr(entry, "reason")]
        assert (record["client"], record["reason"]) == (peer, reason)
        assert detail in record["detail"]
        assert record["levelname"] == ("WARNING" if reason == "broke-protocol" else "INFO")
        await off(other.refresh)
        assert np.array_equal(other.pixels, SCREEN)
        other.close()


async def test_stop_disconnects_clients_and_releases_held_keys(
    tap: SyntheticTap, received_input: RecordingInput, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server = VncServer(tap, port=0)
    async with server:
        client = await connect(server)
        client.key(0x61, down=True)
        await received_input.until(1)
        port = server.port
    assert received_input.received[-1] == "release_all"
    assert details(caplog) == ["the server stops"]
    assert server.connections == 0
    assert tap.viewers == 0
    with pytest.raises((Broken, ConnectionError)):
        await off(client.read, 1)
    client.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


async def test_jpeg_goes_only_to_clients_that_allow_it() -> None:
    photo = picture("photo", 320, 200)
    async with VncServer(SyntheticTap(photo), port=0) as server:
        with (
            await connect(server, TIGHT, JPEG_QUALITY_0 + 8) as lossy,
            await connect(server, TIGHT) as exact,
        ):
            few = await off(lossy.refresh)
            many = await off(exact.refresh)
            assert lossy.decoder.methods == ["jpeg"]
            assert np.array_equal(exact.pixels, photo)
            assert few.size_bytes < many.size_bytes / 3
