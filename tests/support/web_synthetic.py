"""A tap that shows what a test puts into it, and a WebSocket client that need not be polite."""

from __future__ import annotations

import asyncio
import base64
import socket
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from vramtap.display.backlog import DamageBacklog
from vramtap.display.mode import Mode
from vramtap.errors import TargetGone

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from vramtap.keyboard.events import Input, KeyEvent, PointerEvent


class DeafInput:
    """Takes keys and pointer and does nothing with them."""

    async def key(self, event: KeyEvent) -> None: ...

    async def pointer(self, event: PointerEvent, width: int, height: int) -> None: ...

    async def release_all(self) -> None: ...


@dataclass
class SyntheticTarget:
    url: str = "demo:unit"
    input: Input | None = None


@dataclass
class SyntheticScreen:
    pixels: NDArray[np.uint32]
    mode: Mode | None = None

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])


class SyntheticViewer:
    """Has seen nothing, and waits for ever after that."""

    def __init__(self, screen: SyntheticScreen) -> None:
        self.backlog = DamageBacklog(screen.width, screen.height)

    async def changed(self) -> None:
        if not self.backlog:
            await asyncio.Event().wait()


@dataclass
class SyntheticStats:
    tracker: str = "log"
    tracker_why: str = "the probe saw a write"
    scan_us: float = 7.0
    dirty_pages: int = 0
    bytes_read: int = 0
    updates: int = 0


@dataclass
class SyntheticTap:
    """Shows a gradient until told otherwise; `end` ends the target, `ready` holds looks at it back."""

    target: SyntheticTarget = field(default_factory=SyntheticTarget)
    screen: SyntheticScreen = field(
        default_factory=lambda: SyntheticScreen(gradient(64, 48), Mode(64, 48, 256))
    )
    stats: SyntheticStats = field(default_factory=SyntheticStats)
    closed: str | None = None
    viewers: int = 0
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.ready.set()

    @contextmanager
    def viewer(self, name: str) -> Iterator[SyntheticViewer]:
        self.viewers += 1
        try:
            yield SyntheticViewer(self.screen)
        finally:
            self.viewers -= 1

    async def fresh(self) -> None: ...

    async def refresh(self) -> None:
        self.asked.set()
        await self.ready.wait()
        if self.closed is not None:
            raise TargetGone("watch", self.target.url, self.closed)

    def end(self, reason: str) -> None:
        self.closed = reason
        self.ready.set()


def gradient(width: int, height: int) -> NDArray[np.uint32]:
    """Every pixel different from its neighbours."""
    y, x = np.mgrid[0:height, 0:width].astype(np.uint32)
    pixels: NDArray[np.uint32] = (x * 3 % 256) << 16 | (y * 5 % 256) << 8 | (x ^ y) % 256
    return pixels


async def handshake(
    port: int, path: str, headers: Mapping[str, str] | None = None, receive_bytes: int = 0
) -> tuple[bytes, asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a WebSocket by hand.

    Args:
        port: On 127.0.0.1.
        path: Asked for.
        headers: Further ones, or others than usual.
        receive_bytes: Size of the kernel's receive buffer; 0 leaves it alone.

    Returns:
        The answer's status line, and the streams behind it. Nothing more is read until the test reads.
    """
    channel = socket.socket()
    if receive_bytes:
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    channel.setblocking(False)
    await asyncio.get_running_loop().sock_connect(channel, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=channel, limit=4096)
    sent = {
        "Host": f"127.0.0.1:{port}",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(bytes(16)).decode(),
        **(headers or {}),
    }
    writer.write(
        f"GET {path} HTTP/1.1\r\n".encode() + b"".join(f"{k}: {v}\r\n".encode() for k, v in sent.items())
    )
    writer.write(b"\r\n")
    answer = await reader.readuntil(b"\r\n\r\n")
    return answer.partition(b"\r\n")[0], reader, writer
