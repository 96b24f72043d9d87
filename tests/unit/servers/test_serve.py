"""serve(): the servers it starts, their addresses, and what happens when a port is busy."""

from __future__ import annotations

import re
import socket

import aiohttp
import numpy as np
import pytest

import vramtap
from support.pictures import picture
from support.rfb_client import Rejected, RfbClient
from support.synthetic_tap import SyntheticTap
from support.vnc_serving import off
from vramtap.errors import ListenError, UsageError
from vramtap.servers.listen import MAX_PORT, ListenAddress
from vramtap.servers.serve import VncEndpoint, serve

ANY = "127.0.0.1:0"


async def test_serve_starts_a_vnc_server_for_each_tap_and_one_page() -> None:
    taps = [SyntheticTap(picture("noise", 64, 48, seed), url=f"demo:{seed}") for seed in range(2)]
    async with serve(taps, vnc=ANY, web=ANY) as endpoints:
        assert [endpoint.tap for endpoint in endpoints.vnc] == taps
        for endpoint in endpoints.vnc:
            with await off(RfbClient.connect, endpoint.host, endpoint.port) as client:
                await off(client.refresh)
                assert client.name == f"vramtap {endpoint.tap.target.url}"
                assert np.array_equal(client.pixels, endpoint.tap.screen.pixels)
        async with (
            aiohttp.ClientSession() as browser,
            browser.get(f"{endpoints.web[0]}api/targets") as answer,
        ):
            assert [target["url"] for target in (await answer.json())["targets"]] == ["demo:0", "demo:1"]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((endpoint.host, endpoint.port))


async def test_next_taps_get_the_next_ports() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with serve([SyntheticTap(), SyntheticTap()], vnc=f"127.0.0.1:{port}", web=None) as endpoints:
        assert [endpoint.port for endpoint in endpoints.vnc] == [port, port + 1]
        assert endpoints.web == ()


async def test_ports_past_the_last_one_raise_listen_error() -> None:
    address = f"127.0.0.1:{MAX_PORT}"
    with pytest.raises(ListenError, match="the last port is 65535"):
        async with serve([SyntheticTap(), SyntheticTap()], vnc=address, web=None):
            pytest.fail("the servers run")


async def test_busy_port_raises_listen_error_unless_any_port_will_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        with pytest.raises(ListenError, match=rf"listen 127.0.0.1:{port}: Address already in use"):
            async with serve([SyntheticTap()], vnc=ANY, web=f"127.0.0.1:{port}"):
                pytest.fail("the servers run")
        address = ListenAddress("127.0.0.1", port, or_any_port=True)
        async with serve([SyntheticTap()], vnc=address, web=address) as endpoints:
            assert endpoints.vnc[0].port != port
            assert f":{port}/" not in endpoints.web[0]


async def test_password_and_token_are_required_where_set() -> None:
    async with serve([SyntheticTap()], vnc=ANY, web=ANY, password="secret", token="open-sesame") as endpoints:
        vnc = endpoints.vnc[0]
        with pytest.raises(Rejected):
            await off(RfbClient.connect, vnc.host, vnc.port)
        (url,) = endpoints.web
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=open-sesame", url)
        async with aiohttp.ClientSession() as browser, browser.get(url.partition("?")[0]) as answer:
            assert answer.status == 403


@pytest.mark.parametrize(
    ("taps", "vnc", "message"),
    [
        (0, ANY, "there is no target"),
        (1, None, "neither vnc nor web is given"),
        (1, "5900", "vnc 5900: not HOST:PORT"),
    ],
)
async def test_invalid_options_are_a_usage_error(taps: int, vnc: str | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        async with serve([SyntheticTap()] * taps, vnc=vnc, web=None):
            pytest.fail("the servers run")


def test_vnc_endpoint_is_written_as_viewers_take_it() -> None:
    assert str(VncEndpoint(SyntheticTap(), "127.0.0.1", 5901)) == "127.0.0.1::5901"
    assert str(VncEndpoint(SyntheticTap(), "::1", 5901)) == "[::1]::5901"


async def test_vramtap_serve_opens_urls_and_serves_open_taps() -> None:
    """Targets given by URL are opened and closed with the servers; an open tap stays open."""
    shown = SyntheticTap(picture("noise", 64, 48, 3))
    demo = "demo:?workload=idle&mode=320x200&cpu=unicorn"
    async with vramtap.serve(demo, shown, vnc=ANY, web=None, view_only=True) as endpoints:
        opened = endpoints.vnc[0].tap
        assert (opened.target.url, endpoints.vnc[1].tap) == (demo, shown)
        with await off(RfbClient.connect, endpoints.vnc[0].host, endpoints.vnc[0].port) as client:
            await off(client.refresh)
            assert np.array_equal(client.pixels, opened.screen.pixels)
    assert opened.closed == "the tap was closed"
    assert shown.closed is None
