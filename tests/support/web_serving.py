"""A web server for a test, a client with cookies, and a raw WebSocket client."""

from __future__ import annotations

import asyncio
import base64
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp

from support.synthetic_tap import SyntheticTap
from vramtap.servers.vnc.session import EndReason, SessionEnd, SessionOptions
from vramtap.servers.web.server import WebServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from vramtap.servers.web.websocket import WebSocketStream
    from vramtap.tap.tap import Tap


async def echo(stream: WebSocketStream, tap: Tap, options: SessionOptions) -> SessionEnd:
    """Send back every byte: a session that speaks no RFB."""
    while data := await stream.receive():
        await stream.send([data])
    return SessionEnd(EndReason.LEFT, "left", admitted=True)


@asynccontextmanager
async def serving(
    *taps: SyntheticTap,
    **options: Any,  # noqa: ANN401 - WebServer's own keywords
) -> AsyncIterator[tuple[WebServer, aiohttp.ClientSession]]:
    """Yield a server and a client that keeps cookies.

    Args:
        taps: Served taps; one synthetic tap if there are none.
        options: Keywords of `WebServer`. The default session is `echo`.
    """
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


async def handshake(
    port: int, path: str, headers: Mapping[str, str] | None = None, receive_bytes: int = 0
) -> tuple[bytes, asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a WebSocket without a WebSocket library, so that a test controls every byte.

    Args:
        port: TCP port on 127.0.0.1.
        path: Path of the request.
        headers: Headers that add to or replace the usual ones.
        receive_bytes: Size of the kernel's receive buffer; 0 keeps the default.

    Returns:
        The status line of the answer, and the streams. Only the test reads from them.
    """
    channel = socket.socket()
    if receive_bytes:
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    channel.settimeout(0)
    await asyncio.get_running_loop().sock_connect(channel, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=channel, limit=4096)
    fields = {
        "Host": f"127.0.0.1:{port}",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(bytes(16)).decode(),
        **(headers or {}),
    }
    lines = (f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", "")
    writer.write("\r\n".join(lines).encode())
    answer = await reader.readuntil(b"\r\n\r\n")
    return answer.partition(b"\r\n")[0], reader, writer
