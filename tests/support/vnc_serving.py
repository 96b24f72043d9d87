"""Clients for a server that runs in the test's own event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from support.rfb_client import RAW, PixelFormat, RfbClient

if TYPE_CHECKING:
    from vramtap.servers.vnc.server import VncServer

off = asyncio.to_thread
"""Run what blocks, while the server goes on."""


async def connect(
    server: VncServer,
    *encodings: int,
    password: str | None = None,
    version: tuple[int, int] = (3, 8),
    pixel_format: PixelFormat | None = None,
    shared: bool = True,
) -> RfbClient:
    return await asyncio.to_thread(
        RfbClient.connect,
        "127.0.0.1",
        server.port,
        password,
        encodings or (RAW,),
        pixel_format,
        version,
        shared,
    )


async def until_empty(server: VncServer) -> None:
    """Wait until the server has seen all its clients go."""
    await asyncio.wait_for(server.until_left(), 10)
