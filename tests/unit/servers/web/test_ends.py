"""The web server: how sessions end, which close codes browsers get, and its limits."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import aiohttp
import numpy as np
import pytest

from support.synthetic_tap import SyntheticTap
from support.web_serving import serving
from vramtap.servers.vnc.session import EndReason, SessionEnd, SessionOptions, serve_session
from vramtap.servers.web.limits import WebLimits
from vramtap.servers.web.websocket import MAX_REASON_BYTES, TARGET_ENDED, WebSocketStream

if TYPE_CHECKING:
    from vramtap.servers.web.server import WebServer
    from vramtap.tap.tap import Tap


async def close_of(server: WebServer, client: aiohttp.ClientSession) -> tuple[int, str]:
    async with client.ws_connect("/t/0/websockify") as channel:
        message = await channel.receive()
        assert message.type is aiohttp.WSMsgType.CLOSE
        return message.data, message.extra or ""


async def test_end_of_the_target_closes_the_websocket_with_its_reason() -> None:
    tap = SyntheticTap()

    async def serve(stream: WebSocketStream, tap_: Tap, options: SessionOptions) -> SessionEnd:
        tap.end("QEMU (pid 812) exited")
        return SessionEnd(EndReason.TARGET_GONE, "tap vm: gone", admitted=True)

    async with serving(tap, serve=serve) as (server, client):
        assert await close_of(server, client) == (TARGET_ENDED, "QEMU (pid 812) exited")


async def test_long_close_reason_is_cut() -> None:
    async def serve(stream: WebSocketStream, tap: Tap, options: SessionOptions) -> SessionEnd:
        return SessionEnd(EndReason.TARGET_GONE, "x" * 500, admitted=True)

    async with serving(serve=serve) as (server, client):
        code, reason = await close_of(server, client)
        assert code == TARGET_ENDED
        assert len(reason) == MAX_REASON_BYTES


@pytest.mark.parametrize(
    ("reason", "code", "close_reason"),
    [
        (EndReason.LEFT, aiohttp.WSCloseCode.OK, ""),
        (EndReason.LOST, aiohttp.WSCloseCode.OK, ""),
        (EndReason.BROKE_PROTOCOL, aiohttp.WSCloseCode.POLICY_VIOLATION, "why"),
        (EndReason.NO_HANDSHAKE, aiohttp.WSCloseCode.POLICY_VIOLATION, "why"),
        (EndReason.TARGET_GONE, TARGET_ENDED, "why"),
    ],
)
async def test_close_code_follows_from_the_end_reason(
    reason: EndReason, code: int, close_reason: str
) -> None:
    async def serve(stream: WebSocketStream, tap: Tap, options: SessionOptions) -> SessionEnd:
        return SessionEnd(reason, "why", admitted=True)

    async with serving(serve=serve) as (server, client):
        assert await close_of(server, client) == (code, close_reason)


async def test_defect_is_logged_and_closes_the_websocket_as_internal_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def serve(stream: WebSocketStream, tap: Tap, options: SessionOptions) -> SessionEnd:
        raise LookupError("a defect")

    async with serving(serve=serve) as (server, client):
        code, reason = await close_of(server, client)
    assert code == aiohttp.WSCloseCode.INTERNAL_ERROR
    assert "its log" in reason
    assert "a defect" in caplog.text


async def test_browser_session_has_the_target_url_as_name_and_no_password() -> None:
    used: asyncio.Queue[SessionOptions] = asyncio.Queue()

    async def serve(stream: WebSocketStream, tap: Tap, options: SessionOptions) -> SessionEnd:
        used.put_nowait(options)
        return SessionEnd(EndReason.LEFT, "left", admitted=True)

    given = SessionOptions(name="x", password="for VNC", view_only=True)
    async with serving(serve=serve, options=given) as (server, client):
        await close_of(server, client)
    assert await used.get() == SessionOptions(name="demo:unit", password=None, view_only=True)


async def test_websocket_carries_rfb() -> None:
    async with serving(serve=serve_session) as (_, client), client.ws_connect("/t/0/websockify") as channel:
        assert await channel.receive_bytes() == b"RFB 003.008\n"
        await channel.send_bytes(b"RFB 003.008\n")
        assert await channel.receive_bytes() == b"\x01\x01"  # one security type: None


async def test_stop_of_the_server_closes_websockets_as_going_away() -> None:
    async with serving() as (server, client), client.ws_connect("/t/0/websockify") as channel:
        stopping = asyncio.create_task(server.close())
        message = await channel.receive()
        assert (message.data, message.extra) == (aiohttp.WSCloseCode.GOING_AWAY, "vramtap stops")
        await stopping


async def test_stop_after_the_end_of_the_target_gives_that_as_the_reason() -> None:
    tap = SyntheticTap()
    async with serving(tap) as (server, client), client.ws_connect("/t/0/websockify") as channel:
        tap.end("QEMU (pid 812) exited")
        stopping = asyncio.create_task(server.close())
        message = await channel.receive()
        assert (message.data, message.extra) == (TARGET_ENDED, "QEMU (pid 812) exited")
        await stopping


async def test_viewer_beyond_the_limit_is_rejected_and_others_stay() -> None:
    async with (
        serving(limits=WebLimits(viewers=1)) as (server, client),
        client.ws_connect("/t/0/websockify") as channel,
    ):
        await channel.send_bytes(b"x")
        assert await channel.receive_bytes() == b"x"
        code, reason = await close_of(server, client)
        assert code == aiohttp.WSCloseCode.TRY_AGAIN_LATER
        assert reason == "1 viewers are connected already"
        await channel.send_bytes(b"y")
        assert await channel.receive_bytes() == b"y"


async def test_connections_beyond_the_limit_get_503_and_a_viewer_stays(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with (
        serving(limits=WebLimits(connections=4)) as (server, client),
        client.ws_connect("/t/0/websockify") as channel,
    ):
        crowd = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(20)]
        answers = [await reader.read() for reader, _ in crowd[3:]]
        assert all(answer.startswith(b"HTTP/1.1 503 ") for answer in answers)
        await channel.send_bytes(b"x")
        assert await channel.receive_bytes() == b"x"
        for _, writer in crowd:
            writer.close()
    assert caplog.text.count("rejecting connections") == 1


async def test_connection_without_a_complete_request_is_closed() -> None:
    async with serving(limits=WebLimits(idle_s=0.01)) as (server, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: loc")
        assert await reader.read() == b""
        writer.close()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\0" * 100 + b"\r\n\r\n",
        b"RFB 003.008\n\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"".join(b"X%d: y\r\n" % n for n in range(500)) + b"\r\n",
    ],
    ids=["zeros", "rfb", "field", "line", "fields"],
)
async def test_malformed_request_gets_400_and_one_log_line(
    request_bytes: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with serving() as (server, client):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request_bytes)
        assert (await reader.read()).startswith(b"HTTP/1.0 400 ")
        writer.close()
        async with client.get("/api/targets") as answer:
            assert answer.status == 200
    assert not any(record.exc_info for record in caplog.records)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [line.startswith("web 127.0.0.1: bad request: ") for line in warnings] == [True]


async def test_screenshot_without_a_picture_gets_503() -> None:
    tap = SyntheticTap()
    tap.canvas.shown = np.zeros((0, 0), np.uint32)
    async with serving(tap) as (_, client), client.get("/api/screenshot.png") as answer:
        assert answer.status == 503
        assert await answer.text() == "target 0 shows no picture yet\n"


async def test_screenshot_beyond_the_limit_gets_503() -> None:
    tap = SyntheticTap()
    tap.may_refresh.clear()
    async with serving(tap, limits=WebLimits(screenshots=1)) as (_, client):
        first = asyncio.create_task(client.get("/api/screenshot.png"))
        await tap.refresh_called.wait()
        async with client.get("/api/screenshot.png") as answer:
            assert answer.status == 503
        tap.may_refresh.set()
        async with await first as answer:
            assert answer.status == 200
