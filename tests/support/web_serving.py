"""A web server for a test, and a client that behaves as a browser does."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp

from support.web_synthetic import SyntheticTap
from vramtap.servers.vnc.session import EndReason, SessionEnd, SessionOptions
from vramtap.servers.web.server import WebServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from vramtap.servers.web.watched import WatchedTap
    from vramtap.servers.web.websocket import WebSocketStream


async def echo(stream: WebSocketStream, tap: WatchedTap, options: SessionOptions) -> SessionEnd:
    while data := await stream.receive():
        await stream.send([data])
    return SessionEnd(EndReason.LEFT, "left", True)


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
