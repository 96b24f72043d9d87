"""The web server: who is answered, what is answered, and its bounds."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from PIL import Image

from unit.servers.web_synthetic import DeafInput, SyntheticTap, SyntheticTarget, handshake
from vramtap.errors import NotFound, Refused, UsageError, VramtapError
from vramtap.servers import web, web_site, web_watched
from vramtap.servers.session import Cause, Departure, SessionOptions, serve_session
from vramtap.servers.web import WebServer
from vramtap.servers.web_stats import Feed, Subscriber
from vramtap.servers.web_stream import MAX_REASON_BYTES, TARGET_ENDED, WebSocketStream
from vramtap.servers.web_watched import WatchedTap


async def echo(stream: WebSocketStream, tap: WatchedTap, options: SessionOptions) -> Departure:
    while data := await stream.receive():
        await stream.send([data])
    return Departure(Cause.LEFT, "left", True)


@asynccontextmanager
async def serving(
    *taps: SyntheticTap,
    **options: Any,  # noqa: ANN401 - WebServer's own keywords
) -> AsyncIterator[tuple[WebServer, aiohttp.ClientSession]]:
    """A server, and a client that keeps its cookies as a browser does."""
    options.setdefault("serve", echo)
    async with (
        WebServer(taps or [SyntheticTap()], **options) as server,
        aiohttp.ClientSession(
            f"http://127.0.0.1:{server.port}",
            cookie_jar=aiohttp.CookieJar(unsafe=True),
            auto_decompress=False,
        ) as client,
    ):
        yield server, client


# --- Who is answered -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/", "/t/0/", "/static/page.js", "/api/targets", "/api/screenshot.png", "/nothing"]
)
async def test_foreign_host_is_refused_everywhere_in_one_line(path: str) -> None:
    async with serving() as (_, client), client.get(path, headers={"Host": "evil.example"}) as answer:
        text = await answer.text()
        assert answer.status == 403
        assert "DNS rebinding" in text
        assert text.count("\n") == 1
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("path", ["/api/targets", "/api/screenshot.png", "/api/stats", "/t/0/websockify"])
@pytest.mark.parametrize(
    "headers", [{"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}]
)
async def test_other_origins_get_nothing_of_the_api(path: str, headers: dict[str, str]) -> None:
    async with serving() as (server, _):
        status, _, writer = await handshake(server.port, path, headers)
        assert b" 403 " in status
        writer.close()


async def test_own_origin_opens_a_websocket() -> None:
    async with serving() as (server, client):
        origin = f"http://127.0.0.1:{server.port}"
        async with client.ws_connect("/t/0/websockify", origin=origin) as channel:
            await channel.send_bytes(b"x")
            assert await channel.receive_bytes() == b"x"


async def test_link_from_elsewhere_opens_the_page() -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    async with serving() as (_, client), client.get("/", headers=headers) as answer:
        assert answer.status == 200


async def test_token_in_the_url_becomes_a_cookie_that_opens_the_rest() -> None:
    async with serving(token="open-sesame") as (server, client):
        assert server.urls == [f"http://127.0.0.1:{server.port}/?token=open-sesame"]
        for path in ("/", "/static/page.js", "/api/targets", "/api/stats"):
            async with client.get(path) as answer:
                assert answer.status == 403
        async with client.get("/?token=wrong") as answer:
            assert answer.status == 403
            assert "Set-Cookie" not in answer.headers
        async with client.get("/?token=open-sesame") as answer:
            assert answer.status == 200
            cookie = answer.headers["Set-Cookie"]
            assert "HttpOnly" in cookie
            assert "SameSite=Strict" in cookie
            assert "Path=/" in cookie
        async with client.get("/api/targets") as answer:
            assert answer.status == 200
        async with client.ws_connect("/t/0/websockify") as channel:
            await channel.send_bytes(b"x")
            assert await channel.receive_bytes() == b"x"


async def test_program_may_show_the_token_with_each_request() -> None:
    async with (
        serving(token="open-sesame") as (_, client),
        client.get("/api/targets?token=open-sesame") as answer,
    ):
        assert answer.status == 200
        assert "Set-Cookie" not in answer.headers


async def test_any_other_than_loopback_demands_a_token() -> None:
    async with serving(host="0.0.0.0") as (server, client):
        assert all("/?token=" in url for url in server.urls)
        assert server.urls[-1].startswith(f"http://127.0.0.1:{server.port}/")
        async with client.get("/api/targets") as answer:
            assert answer.status == 403
            assert "token" in await answer.text()
        async with client.get(server.urls[-1]) as answer:
            assert answer.status == 200


async def test_loopback_demands_none() -> None:
    async with serving() as (server, client):
        assert server.urls == [f"http://127.0.0.1:{server.port}/"]
        async with client.get("/api/targets") as answer:
            assert answer.status == 200


async def test_allowed_host_is_answered() -> None:
    async with (
        serving(allow_hosts=["lab.example"]) as (_, client),
        client.get("/", headers={"Host": "lab.example:81"}) as answer,
    ):
        assert answer.status == 200


async def test_address_of_ipv6_is_written_in_brackets() -> None:
    async with WebServer([SyntheticTap()], "::1", serve=echo) as server, aiohttp.ClientSession() as client:
        assert server.urls == [f"http://[::1]:{server.port}/"]
        async with client.get(server.urls[0]) as answer:
            assert answer.status == 200


async def test_taken_port_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            Refused, match=rf"listen 127\.0\.0\.1:{port}: Address already in use .*another port"
        ):
            await WebServer([SyntheticTap()], port=port, serve=echo).start()


@pytest.mark.parametrize("host", ["no host", "a..b"])
async def test_unknown_name_to_listen_on_is_one_clear_line(host: str) -> None:
    with pytest.raises(NotFound, match=rf"listen {host}:0: .*address of this machine"):
        await WebServer([SyntheticTap()], host, serve=echo).start()


async def test_address_of_another_machine_is_one_clear_line() -> None:
    with pytest.raises(Refused, match=r"listen 192\.0\.2\.1:0: Cannot assign requested address"):
        await WebServer([SyntheticTap()], "192.0.2.1", serve=echo).start()


async def test_no_target_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no target"):
        WebServer([], serve=echo)


async def test_missing_novnc_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(resources, "files", lambda package: tmp_path)
    with pytest.raises(VramtapError, match=r"noVNC is not there .*make install"):
        await WebServer([SyntheticTap()], serve=echo).start()


async def test_closing_twice_is_harmless() -> None:
    server = WebServer([SyntheticTap()], serve=echo)
    await server.close()
    await server.start()
    await server.close()
    await server.close()


# --- What is answered ----------------------------------------------------------------------------


async def test_page_and_every_file_it_names_are_served_with_their_types() -> None:
    async with serving() as (_, client):
        expected = {
            "/": "text/html; charset=utf-8",
            "/t/0/": "text/html; charset=utf-8",
            "/t/0": "text/html; charset=utf-8",
            "/static/page.js": "text/javascript; charset=utf-8",
            "/static/page.css": "text/css; charset=utf-8",
            "/static/icon.svg": "image/svg+xml",
            "/novnc/core/rfb.js": "text/javascript; charset=utf-8",
            "/novnc/vendor/pako/lib/zlib/inflate.js": "text/javascript; charset=utf-8",
            "/novnc/LICENSE.txt": "text/plain; charset=utf-8",
        }
        for path, content_type in expected.items():
            async with client.get(path) as answer:
                assert answer.status == 200, path
                assert answer.headers["Content-Type"] == content_type
                assert answer.headers["Cache-Control"] == "no-cache"
                assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
                assert answer.headers["Referrer-Policy"] == "no-referrer"
                assert await answer.read()


async def test_file_the_browser_has_is_not_sent_again() -> None:
    async with serving() as (_, client):
        async with client.get("/static/page.js") as answer:
            etag = answer.headers["ETag"]
        async with client.get("/static/page.js", headers={"If-None-Match": etag}) as answer:
            assert answer.status == 304
            assert await answer.read() == b""
        async with client.get("/static/page.js", headers={"If-None-Match": '"other"'}) as answer:
            assert answer.status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/static/../web.py",
        "/static/%2e%2e/web.py",
        "/static/..%2fweb.py",
        "/static//etc/passwd",
        "/novnc/../../web.py",
        "/static/nothing.js",
        "/static/novnc/core/rfb.js",
        "/t/1/",
        "/t/-1/",
        "/t/00000/",
        "/t/9999/",
        "/t/0/nothing",
        "/api/screenshot.png?t=1",
        "/api/screenshot.png?t=x",
        "/api/screenshot.png?t=%D9%A3",
        "/api/stats?t=7",
    ],
)
async def test_what_is_not_there_is_not_found(path: str) -> None:
    async with serving() as (server, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 404 ")
        writer.close()


async def test_other_methods_are_not_allowed() -> None:
    async with serving() as (_, client):
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            async with client.request(method, "/api/targets") as answer:
                assert answer.status == 405


async def test_targets_are_described() -> None:
    running, ended = SyntheticTap(), SyntheticTap(target=SyntheticTarget("qemu:/run/vm.qmp", DeafInput()))
    ended.end("QEMU (pid 812) exited")
    async with serving(running, ended) as (_, client), client.get("/api/targets") as answer:
        assert answer.headers["Cache-Control"] == "no-store"
        assert await answer.json() == {
            "targets": [
                {
                    "n": 0,
                    "url": "demo:unit",
                    "mode": "64x48 XR24",
                    "tracker": "log",
                    "input": False,
                    "ended": None,
                },
                {
                    "n": 1,
                    "url": "qemu:/run/vm.qmp",
                    "mode": "64x48 XR24",
                    "tracker": "log",
                    "input": True,
                    "ended": "QEMU (pid 812) exited",
                },
            ]
        }


async def test_screen_without_framebuffer_and_no_screen_yet_are_named() -> None:
    text, nothing = SyntheticTap(), SyntheticTap()
    text.screen.mode = None
    nothing.screen.mode = None
    nothing.screen.pixels = np.zeros((0, 0), np.uint32)
    assert web_watched.mode_text(text) == "64x48 without framebuffer"
    assert web_watched.mode_text(nothing) == "no picture yet"


async def test_screenshot_is_the_screen() -> None:
    tap = SyntheticTap()
    async with serving(tap) as (_, client), client.get("/api/screenshot.png?t=0") as answer:
        assert answer.headers["Content-Type"] == "image/png"
        assert answer.headers["Cache-Control"] == "no-store"
        shot = np.asarray(Image.open(io.BytesIO(await answer.read())).convert("RGB")).astype(np.uint32)
    assert np.array_equal(shot[..., 0] << 16 | shot[..., 1] << 8 | shot[..., 2], tap.screen.pixels)


async def test_screenshot_waits_for_a_look_at_the_target_but_not_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(web_watched, "LOOK_S", 0.01)
    tap = SyntheticTap()
    tap.ready.clear()
    async with serving(tap) as (_, client), client.get("/api/screenshot.png") as answer:
        assert answer.status == 504


async def test_screenshot_of_an_ended_target_says_how_it_ended() -> None:
    tap = SyntheticTap()
    tap.end("QEMU (pid 812) exited")
    async with serving(tap) as (_, client), client.get("/api/screenshot.png") as answer:
        assert answer.status == 410
        assert "QEMU (pid 812) exited" in await answer.text()


async def test_live_line_is_told_and_stops_with_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    left: asyncio.Queue[Feed] = asyncio.Queue()
    leave = Feed.leave

    def leaving(feed: Feed, subscriber: Subscriber) -> None:
        leave(feed, subscriber)
        left.put_nowait(feed)

    monkeypatch.setattr(Feed, "leave", leaving)
    tap = SyntheticTap()
    async with serving(tap) as (_, client):
        async with client.ws_connect("/api/stats?t=0") as channel:
            fields = json.loads(await channel.receive_str())
            assert fields["mode"] == "64x48 XR24"
            assert fields["tracker"] == "log"
            tap.stats.tracker = "compare"
            assert json.loads(await channel.receive_str()) == {"tracker": "compare"}
        feed = await left.get()
        assert not feed.running


# --- Ends, and what they are called ----------------------------------------------------------------


async def closing_of(server: WebServer, client: aiohttp.ClientSession) -> tuple[int, str]:
    async with client.ws_connect("/t/0/websockify") as channel:
        message = await channel.receive()
        assert message.type is aiohttp.WSMsgType.CLOSE
        return message.data, message.extra or ""


async def test_end_of_the_target_reaches_the_page_with_its_reason() -> None:
    tap = SyntheticTap()

    async def serve(stream: WebSocketStream, tap_: WatchedTap, options: SessionOptions) -> Departure:
        tap.end("QEMU (pid 812) exited")
        return Departure(Cause.TARGET_GONE, "tap vm: gone", True)

    async with serving(tap, serve=serve) as (server, client):
        assert await closing_of(server, client) == (TARGET_ENDED, "QEMU (pid 812) exited")


async def test_long_reasons_are_cut() -> None:
    async def serve(stream: WebSocketStream, tap: WatchedTap, options: SessionOptions) -> Departure:
        return Departure(Cause.TARGET_GONE, "x" * 500, True)

    async with serving(serve=serve) as (server, client):
        code, reason = await closing_of(server, client)
        assert code == TARGET_ENDED
        assert len(reason) == MAX_REASON_BYTES


@pytest.mark.parametrize(
    ("cause", "code", "told"),
    [
        (Cause.LEFT, aiohttp.WSCloseCode.OK, ""),
        (Cause.LOST, aiohttp.WSCloseCode.OK, ""),
        (Cause.BROKE_PROTOCOL, aiohttp.WSCloseCode.POLICY_VIOLATION, "why"),
        (Cause.NO_HANDSHAKE, aiohttp.WSCloseCode.POLICY_VIOLATION, "why"),
        (Cause.TARGET_GONE, TARGET_ENDED, "why"),
    ],
)
async def test_how_a_session_ended_is_told(cause: Cause, code: int, told: str) -> None:
    async def serve(stream: WebSocketStream, tap: WatchedTap, options: SessionOptions) -> Departure:
        return Departure(cause, "why", True)

    async with serving(serve=serve) as (server, client):
        assert await closing_of(server, client) == (code, told)


async def test_defect_is_logged_and_the_viewer_told(caplog: pytest.LogCaptureFixture) -> None:
    async def serve(stream: WebSocketStream, tap: WatchedTap, options: SessionOptions) -> Departure:
        raise LookupError("a defect")

    async with serving(serve=serve) as (server, client):
        code, reason = await closing_of(server, client)
    assert code == aiohttp.WSCloseCode.INTERNAL_ERROR
    assert "its log" in reason
    assert "a defect" in caplog.text


async def test_session_bears_the_target_s_name_and_asks_no_password() -> None:
    told: asyncio.Queue[SessionOptions] = asyncio.Queue()

    async def serve(stream: WebSocketStream, tap: WatchedTap, options: SessionOptions) -> Departure:
        told.put_nowait(options)
        return Departure(Cause.LEFT, "left", True)

    given = SessionOptions(name="x", password="for VNC", view_only=True)
    async with serving(serve=serve, options=given) as (server, client):
        await closing_of(server, client)
    assert await told.get() == SessionOptions(name="demo:unit", password=None, view_only=True)


async def test_rfb_is_spoken() -> None:
    async with serving(serve=serve_session) as (_, client), client.ws_connect("/t/0/websockify") as channel:
        assert await channel.receive_bytes() == b"RFB 003.008\n"
        await channel.send_bytes(b"RFB 003.008\n")
        assert await channel.receive_bytes() == b"\x01\x01"  # one security type: None


async def test_stop_of_the_server_is_told() -> None:
    async with serving() as (server, client), client.ws_connect("/t/0/websockify") as channel:
        stopping = asyncio.create_task(server.close())
        message = await channel.receive()
        assert (message.data, message.extra) == (aiohttp.WSCloseCode.GOING_AWAY, "vramtap stops")
        await stopping


async def test_stop_that_comes_of_the_target_s_end_tells_of_that() -> None:
    tap = SyntheticTap()
    async with serving(tap) as (server, client), client.ws_connect("/t/0/websockify") as channel:
        tap.end("QEMU (pid 812) exited")
        stopping = asyncio.create_task(server.close())
        message = await channel.receive()
        assert (message.data, message.extra) == (TARGET_ENDED, "QEMU (pid 812) exited")
        await stopping


async def test_one_viewer_too_many_is_told_so_and_the_others_stay() -> None:
    async with serving(max_viewers=1) as (server, client), client.ws_connect("/t/0/websockify") as channel:
        await channel.send_bytes(b"x")
        assert await channel.receive_bytes() == b"x"
        code, reason = await closing_of(server, client)
        assert code == aiohttp.WSCloseCode.TRY_AGAIN_LATER
        assert "1 viewers" in reason
        await channel.send_bytes(b"y")
        assert await channel.receive_bytes() == b"y"


# --- Bounds ----------------------------------------------------------------------------------------


async def test_connections_are_bounded_and_a_viewer_stays(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(web, "MAX_CONNECTIONS", 4)
    async with serving() as (server, client), client.ws_connect("/t/0/websockify") as channel:
        crowd = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(20)]
        answers = [await reader.read() for reader, _ in crowd[3:]]
        assert all(answer.startswith(b"HTTP/1.1 503 ") for answer in answers)
        await channel.send_bytes(b"x")
        assert await channel.receive_bytes() == b"x"
        for _, writer in crowd:
            writer.close()
    assert caplog.text.count("turning connections away") == 1


async def test_silent_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "IDLE_S", 0.01)
    async with serving() as (server, _):
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
async def test_nonsense_is_a_bad_request_without_traceback(
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


async def test_screenshot_of_no_picture_is_refused() -> None:
    tap = SyntheticTap()
    tap.screen.pixels = np.zeros((0, 0), np.uint32)
    async with serving(tap) as (_, client), client.get("/api/screenshot.png") as answer:
        assert answer.status == 503
        assert await answer.text() == "target 0 shows no picture yet\n"


async def test_screenshots_at_once_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_site, "MAX_SCREENSHOTS", 1)
    tap = SyntheticTap()
    tap.ready.clear()
    async with serving(tap) as (_, client):
        first = asyncio.create_task(client.get("/api/screenshot.png"))
        await tap.asked.wait()
        async with client.get("/api/screenshot.png") as answer:
            assert answer.status == 503
        tap.ready.set()
        async with await first as answer:
            assert answer.status == 200
