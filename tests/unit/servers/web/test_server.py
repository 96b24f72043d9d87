"""The web server: the page, its files, the API, screenshots and statistics."""

from __future__ import annotations

import asyncio
import io
import json

import numpy as np
import pytest
from PIL import Image

from support.synthetic_tap import RecordingInput, SyntheticTap
from support.web_serving import serving
from vramtap.servers.web.describe import mode_text
from vramtap.servers.web.limits import WebLimits
from vramtap.servers.web.stats_feed import Feed, Subscriber


async def test_page_and_its_files_are_served_with_their_types() -> None:
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


async def test_cached_file_gets_304() -> None:
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
async def test_unknown_path_gets_404(path: str) -> None:
    async with serving() as (server, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 404 ")
        writer.close()


async def test_other_methods_get_405() -> None:
    async with serving() as (_, client):
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            async with client.request(method, "/api/targets") as answer:
                assert answer.status == 405


async def test_targets_api_describes_every_target() -> None:
    running, ended = SyntheticTap(), SyntheticTap(input=RecordingInput(), url="qemu:/run/vm.qmp")
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


async def test_mode_text_names_missing_framebuffer_and_missing_picture() -> None:
    text, nothing = SyntheticTap(), SyntheticTap()
    text.canvas.shown_mode = None
    nothing.canvas.shown_mode = None
    nothing.canvas.shown = np.zeros((0, 0), np.uint32)
    assert mode_text(text) == "64x48 without framebuffer"
    assert mode_text(nothing) == "no picture yet"


async def test_screenshot_has_the_pixels_of_the_screen() -> None:
    tap = SyntheticTap()
    async with serving(tap) as (_, client), client.get("/api/screenshot.png?t=0") as answer:
        assert answer.headers["Content-Type"] == "image/png"
        assert answer.headers["Cache-Control"] == "no-store"
        shot = np.asarray(Image.open(io.BytesIO(await answer.read())).convert("RGB")).astype(np.uint32)
    assert np.array_equal(shot[..., 0] << 16 | shot[..., 1] << 8 | shot[..., 2], tap.screen.pixels)


async def test_screenshot_gets_504_if_the_scan_takes_too_long() -> None:
    tap = SyntheticTap()
    tap.may_refresh.clear()
    async with (
        serving(tap, limits=WebLimits(screenshot_s=0.01)) as (_, client),
        client.get("/api/screenshot.png") as answer,
    ):
        assert answer.status == 504


async def test_screenshot_of_an_ended_target_gets_410_with_the_reason() -> None:
    tap = SyntheticTap()
    tap.end("QEMU (pid 812) exited")
    async with serving(tap) as (_, client), client.get("/api/screenshot.png") as answer:
        assert answer.status == 410
        assert "QEMU (pid 812) exited" in await answer.text()


async def test_statistics_are_sent_until_the_page_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: asyncio.Queue[Feed] = asyncio.Queue()
    unsubscribe = Feed.unsubscribe

    def unsubscribing(feed: Feed, subscriber: Subscriber) -> None:
        unsubscribe(feed, subscriber)
        stopped.put_nowait(feed)

    monkeypatch.setattr(Feed, "unsubscribe", unsubscribing)
    tap = SyntheticTap()
    async with serving(tap) as (_, client):
        async with client.ws_connect("/api/stats?t=0") as channel:
            fields = json.loads(await channel.receive_str())
            assert fields["mode"] == "64x48 XR24"
            assert fields["tracker"] == "log"
            tap.stats.tracker = "compare"
            assert json.loads(await channel.receive_str()) == {"tracker": "compare"}
        feed = await stopped.get()
        assert not feed.running
