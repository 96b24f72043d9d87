"""The web server: which requests it serves, and where it listens."""

from __future__ import annotations

import socket
from importlib import resources
from typing import TYPE_CHECKING

import aiohttp
import pytest

from support.synthetic_tap import SyntheticTap
from support.web_serving import echo, handshake, serving
from vramtap.errors import ListenError, MissingAsset, UsageError
from vramtap.servers.web.server import WebServer

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    "path", ["/", "/t/0/", "/static/page.js", "/api/targets", "/api/screenshot.png", "/nothing"]
)
async def test_foreign_host_is_refused_on_every_path(path: str) -> None:
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
async def test_other_origins_are_refused_by_the_api(path: str, headers: dict[str, str]) -> None:
    async with serving() as (server, _):
        status, _, writer = await handshake(server.port, path, headers)
        assert b" 403 " in status
        writer.close()


async def test_own_origin_may_open_a_websocket() -> None:
    async with serving() as (server, client):
        origin = f"http://127.0.0.1:{server.port}"
        async with client.ws_connect("/t/0/websockify", origin=origin) as channel:
            await channel.send_bytes(b"x")
            assert await channel.receive_bytes() == b"x"


async def test_link_from_another_site_opens_the_page() -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    async with serving() as (_, client), client.get("/", headers=headers) as answer:
        assert answer.status == 200


async def test_token_in_the_url_becomes_a_cookie_for_later_requests() -> None:
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


async def test_token_in_the_query_serves_one_request_without_a_cookie() -> None:
    async with (
        serving(token="open-sesame") as (_, client),
        client.get("/api/targets?token=open-sesame") as answer,
    ):
        assert answer.status == 200
        assert "Set-Cookie" not in answer.headers


async def test_address_other_than_loopback_requires_a_token() -> None:
    async with serving(host="0.0.0.0") as (server, client):
        assert all("/?token=" in url for url in server.urls)
        assert server.urls[-1].startswith(f"http://127.0.0.1:{server.port}/")
        async with client.get("/api/targets") as answer:
            assert answer.status == 403
            assert "token" in await answer.text()
        async with client.get(server.urls[-1]) as answer:
            assert answer.status == 200


async def test_loopback_requires_no_token() -> None:
    async with serving() as (server, client):
        assert server.urls == [f"http://127.0.0.1:{server.port}/"]
        async with client.get("/api/targets") as answer:
            assert answer.status == 200


async def test_allowed_host_is_served() -> None:
    async with (
        serving(allow_hosts=["vm.example"]) as (_, client),
        client.get("/", headers={"Host": "vm.example:81"}) as answer,
    ):
        assert answer.status == 200


async def test_ipv6_address_is_in_brackets_in_the_url() -> None:
    async with WebServer([SyntheticTap()], "::1", serve=echo) as server, aiohttp.ClientSession() as client:
        assert server.urls == [f"http://[::1]:{server.port}/"]
        async with client.get(server.urls[0]) as answer:
            assert answer.status == 200


async def test_busy_port_raises_listen_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            ListenError, match=rf"listen 127\.0\.0\.1:{port}: Address already in use .*another port"
        ):
            await WebServer([SyntheticTap()], port=port, serve=echo).start()


@pytest.mark.parametrize("host", ["no host", "a..b"])
async def test_unknown_name_raises_listen_error(host: str) -> None:
    with pytest.raises(ListenError, match=rf"listen {host}:0: .*an address of this machine"):
        await WebServer([SyntheticTap()], host, serve=echo).start()


async def test_address_of_another_machine_raises_listen_error() -> None:
    with pytest.raises(ListenError, match=r"listen 192\.0\.2\.1:0: Cannot assign requested address"):
        await WebServer([SyntheticTap()], "192.0.2.1", serve=echo).start()


async def test_no_target_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no target"):
        WebServer([], serve=echo)


async def test_missing_novnc_raises_an_error_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(resources, "files", lambda package: tmp_path)
    with pytest.raises(MissingAsset, match=r"noVNC is missing .*make install"):
        await WebServer([SyntheticTap()], serve=echo).start()


async def test_close_does_nothing_on_a_stopped_server() -> None:
    server = WebServer([SyntheticTap()], serve=echo)
    await server.close()
    await server.start()
    async with aiohttp.ClientSession() as client:
        async with client.get(server.urls[0]) as answer:
            assert answer.status == 200, "a close before the start does not keep the server from starting"
        await server.close()
        await server.close()
        with pytest.raises(aiohttp.ClientConnectorError):
            await client.get(server.urls[0])
