"""Clients for a VNC server that runs in the test's own event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from support.rfb_client import RAW, PixelFormat, RfbClient

if TYPE_CHECKING:
    import pytest

    from vramtap.servers.vnc.server import VncServer

off = asyncio.to_thread
"""Run a blocking call in a thread, so that the server goes on."""

_POLL_S = 0.002


async def connect(
    server: VncServer,
    *encodings: int,
    password: str | None = None,
    version: tuple[int, int] = (3, 8),
    pixel_format: PixelFormat | None = None,
    shared: bool = True,
) -> RfbClient:
    """Return a client after its handshake. See `RfbClient.connect` for the arguments."""
    return await asyncio.to_thread(
        RfbClient.connect,
        "127.0.0.1",
        server.port,
        password,
        encodings or (RAW,),
        pixel_format,
        version,
        shared=shared,
    )


async def until_connections(server: VncServer, count: int, limit_s: float = 10) -> None:
    """Wait until the server has at most this many clients."""
    async with asyncio.timeout(limit_s):
        while server.connections > count:  # noqa: ASYNC110 - the server announces no departures
            await asyncio.sleep(_POLL_S)


async def until_empty(server: VncServer, limit_s: float = 10) -> None:
    """Wait until every client's session has ended."""
    await until_connections(server, 0, limit_s)


def ends(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Return reason and detail of every session end in the log, in order."""
    return [
        (vars(record)["reason"], vars(record)["detail"])
        for record in caplog.records
        if hasattr(record, "reason")
    ]


def details(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return why each session ended or was rejected, in order."""
    return [vars(record)["detail"] for record in caplog.records if hasattr(record, "detail")]
