"""A web server for a test, and a client that behaves as a browser does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from support.web_synthetic import SyntheticTap
from vramtap.servers.vnc.session import Cause, Departure, SessionOptions
from vramtap.servers.web.server import WebServer
from vramtap.servers.web.watched import WatchedTap
from vramtap.servers.web.websocket import WebSocketStream


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
