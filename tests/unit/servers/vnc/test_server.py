"""VncServer: who may listen where, who is let in, and what each client may cost."""

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
from support.vnc_serving import connect, off, until_empty
from vramtap.display.region import Rect
from vramtap.errors import NotFound, Refused, UsageError
from vramtap.servers.vnc.server import VncServer
from vramtap.servers.vnc.session import SessionOptions
from vramtap.servers.vnc.throttle import FREE_FAILURES

SCREEN = picture("patches", 320, 200)
NO_DELAY = SessionOptions(password="secret", failure_delay_s=0)


def reasons(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Why each client's session ended or did not begin."""
    return [vars(record)["reason"] for record in caplog.records if hasattr(record, "reason")]


@pytest.mark.parametrize("encodings", [(RAW,), (ZRLE,), (TIGHT,), (COPY_RECT, TIGHT, ZRLE)], ids=str)
@pytest.mark.parametrize("version", [(3, 3), (3, 7), (3, 8)], ids=str)
@pytest.mark.parametrize("password", [None, "secret"])
async def test_a_client_sees_the_screen(
    encodings: tuple[int, ...], version: tuple[int, int], password: str | None
) -> None:
    tap = SyntheticTap(SCREEN)
    async with VncServer(tap, port=0, options=SessionOptions("a guest", password)) as server:
        with await connect(server, *encodings, version=version, password=password) as client:
            await off(client.refresh, False)
            assert client.name == "a guest"
            assert np.array_equal(client.pixels, SCREEN)
            tap.draw(Rect(30, 40, 50, 60), picture("noise", 50, 60))
            update = await off(client.refresh)
            assert np.array_equal(client.pixels, tap.screen.pixels)
            assert {rect[4] for rect in update.rects} == {next(e for e in encodings if e != COPY_RECT)}


async def test_several_clients_with_wishes_of_their_own_see_the_same() -> None:
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
async def test_a_wrong_password_is_answered_late_and_logged(
    version: tuple[int, int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    delays: list[float] = []
    really_sleep = asyncio.sleep

    async def sleep(seconds: float) -> None:
        delays.append(seconds)
        await really_sleep(0)

    options = SessionOptions(password="secret", failure_delay_s=1234.5, handshake_s=10_000)
    async with VncServer(SyntheticTap(SCREEN), port=0, options=options) as server:
        monkeypatch.setattr(asyncio, "sleep", sleep)
        with pytest.raises(Rejected, match="Authentication failed" if version == (3, 8) else "^$"):
            await connect(server, password="Secret", version=version)
        monkeypatch.undo()
        await until_empty(server)
    assert 1234.5 in delays
    assert reasons(caplog) == ["wrong password"]


async def test_who_guesses_is_turned_away_until_time_has_passed(caplog: pytest.LogCaptureFixture) -> None:
    async with VncServer(SyntheticTap(SCREEN), port=0, options=NO_DELAY) as server:
        for _ in range(FREE_FAILURES + 1):
            with pytest.raises(Rejected):
                await connect(server, password="guess")
            # Leaving without a guess does not make up for one.
            socket.create_connection(("127.0.0.1", server.port)).close()
            await until_empty(server)
        with pytest.raises((Broken, ConnectionError)):
            await connect(server, password="secret")
    assert reasons(caplog)[-1].startswith("too many wrong passwords, next try in")


async def test_the_right_password_forgives(caplog: pytest.LogCaptureFixture) -> None:
    async with VncServer(SyntheticTap(SCREEN), port=0, options=NO_DELAY) as server:
        for _ in range(2 * FREE_FAILURES):
            with pytest.raises(Rejected):
                await connect(server, password="guess")
            (await connect(server, password="secret")).close()
            await until_empty(server)
    assert not [reason for reason in reasons(caplog) if "too many" in reason]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.1"])
async def test_without_password_only_loopback_is_listened_on(host: str) -> None:
    with pytest.raises(UsageError, match=r"no password is set \(set a VNC password, or listen on 127"):
        async with VncServer(SyntheticTap(SCREEN), host, 0):
            pytest.fail("it listens")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1.2.3"])
async def test_loopback_needs_no_password(host: str) -> None:
    async with VncServer(SyntheticTap(SCREEN), host, 0) as server:
        address = server.addresses[0][0]
        with await off(RfbClient.connect, address, server.port) as client:
            await off(client.refresh)
            assert np.array_equal(client.pixels, SCREEN)


async def test_with_a_password_any_address_will_do() -> None:
    async with VncServer(SyntheticTap(SCREEN), "0.0.0.0", 0, NO_DELAY) as server:
        with await connect(server, password="secret") as client:
            assert client.width == 320


@pytest.mark.parametrize("password", ["", "päss"])
def test_a_password_that_cannot_be_one_is_refused(password: str) -> None:
    with pytest.raises(UsageError, match="VNC password"):
        VncServer(SyntheticTap(SCREEN), options=SessionOptions(password=password))


def test_a_long_password_is_told_about(caplog: pytest.LogCaptureFixture) -> None:
    VncServer(SyntheticTap(SCREEN), options=SessionOptions(password="correct horse"))
    assert "only the first 8 characters" in caplog.text


async def test_an_address_that_is_taken_or_unknown_says_so() -> None:
    tap = SyntheticTap(SCREEN)
    async with VncServer(tap, port=0) as server:
        with pytest.raises(
            Refused, match=r"listen 127.0.0.1:\d+: Address already in use .choose another port"
        ):
            await VncServer(tap, port=server.port).__aenter__()
    with pytest.raises(NotFound, match=r"listen no\.such\.host\.invalid:0"):
        await VncServer(tap, "no.such.host.invalid", 0).__aenter__()


async def test_only_so_many_are_served_and_the_rest_are_told_off(caplog: pytest.LogCaptureFixture) -> None:
    tap = SyntheticTap(SCREEN)
    async with VncServer(tap, port=0, max_connections=5) as server:
        first = await connect(server)
        crowd = await off(lambda: [socket.create_connection(("127.0.0.1", server.port)) for _ in range(199)])
        closed = 0
        for one in crowd:
            one.settimeout(10)
            greeting = await off(_greeting, one)
            closed += not greeting
        assert closed == 195
        assert server.connections == 5
        await off(first.refresh)
        assert np.array_equal(first.pixels, SCREEN)
        for one in crowd:
            one.close()
        await asyncio.wait_for(server.until_left(1), 10)
        with await connect(server) as another:
            await off(another.refresh)
        first.close()
        await until_empty(server)
    assert reasons(caplog).count("5 clients are connected already") == 195


def _greeting(one: socket.socket) -> bytes:
    try:
        return one.recv(12)
    except ConnectionResetError:
        return b""


@pytest.mark.parametrize("said", [b"", b"RFB 003.008\n", b"RFB 003.008\n\2"])
async def test_half_open_connections_die(said: bytes, caplog: pytest.LogCaptureFixture) -> None:
    options = SessionOptions(password="secret", handshake_s=0.02, password_s=0.02)
    async with VncServer(SyntheticTap(SCREEN), port=0, options=options) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as one:
            one.sendall(said)
            one.settimeout(10)
            while await off(one.recv, 100):
                pass
        await until_empty(server)
    assert reasons(caplog) == ["no complete handshake within 0.04 s"]


@pytest.mark.parametrize(
    ("said", "cause", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "broke-protocol", "not an RFB version"),
        (b"RFB 003.008\n\1\1\xaa", "broke-protocol", "read message type 170"),
        (b"RFB 003.008\n\1\1\2\0\xff\xff", "broke-protocol", "65535 encodings"),
        (b"RFB 003.008\n\1\1\6\0\0\0\x7f\xff\xff\xff", "broke-protocol", "2147483647 bytes"),
        (b"RFB 003.008\n\1\1", "left", "the client closed the connection"),
        (b"RFB 003.0", "left", "the client closed the connection"),
    ],
)
async def test_every_end_is_logged_with_its_reason(
    said: bytes, cause: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    tap = SyntheticTap(SCREEN)
    async with VncServer(tap, port=0) as server:
        other = await connect(server)
        with socket.create_connection(("127.0.0.1", server.port)) as one:
            peer = "{}:{}".format(*one.getsockname())
            one.sendall(said)
            if cause == "left":
                one.shutdown(socket.SHUT_WR)
            one.settimeout(10)
            while await off(_greeting, one):
                pass
        (record,) = [vars(entry) for entry in caplog.records if hasattr(entry, "cause")]
        assert (record["client"], record["cause"]) == (peer, cause)
        assert reason in record["reason"]
        assert record["levelname"] == ("WARNING" if cause == "broke-protocol" else "INFO")
        await off(other.refresh)
        assert np.array_equal(other.pixels, SCREEN)
        other.close()


async def test_stopping_disconnects_everyone_and_leaves_nothing_held(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    taker = RecordingInput()
    tap = SyntheticTap(SCREEN, taker)
    server = VncServer(tap, port=0)
    async with server:
        client = await connect(server)
        client.key(0x61, True)
        await taker.until(1)
        port = server.port
    assert taker.taken[-1] == "release_all"
    assert reasons(caplog) == ["the server stops"]
    assert server.connections == 0
    assert tap.viewers == []
    with pytest.raises((Broken, ConnectionError)):
        await off(client.read, 1)
    client.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


async def test_jpeg_comes_to_who_allows_it_and_nobody_else() -> None:
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
