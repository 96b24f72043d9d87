"""X servers that cannot be tapped, or that fail while they are tapped."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from support.testbed.xvfb import Xvfb
from support.x11 import target_of
from vramtap.errors import NotFound, NotTappable, Refused, TargetGone, VramtapError
from vramtap.pages import PageRuns
from vramtap.targets.x11.server import SOCKET_DIRECTORY
from vramtap.targets.x11.target import X11Target, X11Timeouts

if TYPE_CHECKING:
    from vramtap.memory.process import ProcessSpace
    from vramtap.targets.x11.connection import XConnection


async def test_an_unsupported_depth_is_refused() -> None:
    refusal = pytest.raises(NotTappable, match=r"depth 30,.*start it with depth 24")
    with Xvfb(width=320, height=200, depth=30) as server, refusal:
        await target_of(server.url).__aenter__()


async def test_a_server_without_a_framebuffer_in_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vramtap.targets.x11.target.find_headers", lambda *_: [])
    refusal = pytest.raises(
        NotTappable, match=r"no framebuffer of Xvfb's kind in Xvfb .*run the programs in an Xvfb"
    )
    with Xvfb(width=64, height=64) as server, refusal:
        await target_of(server.url).__aenter__()


async def test_a_xinerama_root_window_is_refused() -> None:
    joined = ("-screen", "1", "128x64x24", "+xinerama")
    refusal = pytest.raises(NotTappable, match=r"none of 1 framebuffers in Xvfb .* agrees with what it shows")
    with Xvfb(width=64, height=64, arguments=joined) as server, refusal:
        await target_of(server.url).__aenter__()


# The server fails


async def test_gone_returns_when_the_server_exits() -> None:
    with Xvfb(width=64, height=64) as server:
        async with target_of(server.url) as target:
            gone = asyncio.create_task(target.gone())
            server.kill()
            assert await asyncio.wait_for(gone, 30) == f"Xvfb (pid {server.pid}) exited"
            with pytest.raises(TargetGone, match=r"Xvfb \(pid \d+\) closed it"):
                await target.mode()
            with pytest.raises(TargetGone):
                await picture_of_dead(target)


async def picture_of_dead(target: X11Target) -> None:
    data = np.empty(target.extent.size_bytes, np.uint8)
    target.extent.read(PageRuns.full(target.extent.pages), data)


async def test_gone_returns_when_the_connection_is_cut() -> None:
    with Xvfb(width=64, height=64) as server:
        async with target_of(server.url) as target:
            assert target._connection is not None
            target._connection.sever()
            assert (
                await asyncio.wait_for(target.gone(), 30) == f"Xvfb (pid {server.pid}) closed the connection"
            )
            with pytest.raises(TargetGone):
                await target.mode()


# Nothing to connect to


async def test_a_missing_display_is_refused() -> None:
    with pytest.raises(
        NotFound, match=r"no X server there \(/tmp/.X11-unix/X65000 is missing\) \(see vramtap ls\)"
    ):
        await target_of("x11::65000").__aenter__()


async def test_a_socket_left_by_a_dead_server_is_refused() -> None:
    path = Path(SOCKET_DIRECTORY) / "X65001"
    path.parent.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    try:
        with pytest.raises(NotFound, match=r"the server has ended and left .*X65001"):
            await target_of("x11::65001").__aenter__()
    finally:
        path.unlink()


async def test_a_stopped_server_is_refused() -> None:
    with Xvfb(width=64, height=64) as server:
        os.kill(server.pid, signal.SIGSTOP)
        try:
            with pytest.raises(NotTappable, match=r"does not answer.*is it stopped, or grabbed"):
                await target_of(server.url, timeouts=X11Timeouts(answer_s=0.3)).__aenter__()
        finally:
            os.kill(server.pid, signal.SIGCONT)


async def test_a_server_that_stops_during_attach_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(X11Target, "_find_framebuffer", stop_and_ask)
    with Xvfb(width=64, height=64) as server:
        try:
            with pytest.raises(NotTappable, match=r"did not answer for 0.3 s"):
                await target_of(server.url, timeouts=X11Timeouts(attach_s=0.3)).__aenter__()
        finally:
            os.kill(server.pid, signal.SIGCONT)


def stop_and_ask(_: X11Target, connection: XConnection, space: ProcessSpace) -> None:
    """Take the place of the search: stop the server, then wait for an answer from it."""
    os.kill(connection.pid, signal.SIGSTOP)
    connection.xcb.core.GetInputFocus().reply()


def write_cookie(path: Path, display: bytes, cookie: bytes) -> None:
    parts = (socket.gethostname().encode(), display, b"MIT-MAGIC-COOKIE-1", cookie)
    path.write_bytes(b"\1\0" + b"".join(struct.pack(">H", len(part)) + part for part in parts))


async def test_the_accepted_cookie_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The cookie contains a colon, at which xcffib's own function would cut it.
    own, mine, wrong = tmp_path / "own", tmp_path / "mine", tmp_path / "wrong"
    write_cookie(own, b"", b"0123:567\0abcdefg")
    with Xvfb(width=64, height=64, arguments=("-auth", str(own))) as server:
        monkeypatch.setenv("XAUTHORITY", str(tmp_path / "none"))
        async with target_of(server.url) as target:
            assert target.server == "Xvfb", "the server's own cookie file was used"
        own.rename(mine)
        with pytest.raises(Refused, match=rf"the X server says: .*set XAUTHORITY to its cookie file, {own}"):
            await target_of(server.url).__aenter__()
        monkeypatch.setenv("XAUTHORITY", str(mine))
        async with target_of(server.url) as target:
            assert target.server == "Xvfb"
        write_cookie(wrong, server.display[1:].encode(), bytes(16))
        monkeypatch.setenv("XAUTHORITY", str(wrong))
        with pytest.raises(Refused, match=r"the X server says: "):
            await target_of(server.url).__aenter__()


class FakeServer:
    """A listener at the socket of a display, in this process, with a prepared answer."""

    def __init__(self, number: int, answer: bytes) -> None:
        self.path = Path(SOCKET_DIRECTORY) / f"X{number}"
        self.answer = answer

    async def __aenter__(self) -> FakeServer:
        self.path.parent.mkdir(exist_ok=True)
        self.server = await asyncio.start_unix_server(self.serve, self.path)
        return self

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(12)
        writer.write(self.answer)
        writer.close()

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        await self.server.wait_closed()
        self.path.unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", r"the server hung up"),
        (b"\1", r"the server hung up"),
        (b"\0\5\0\0\0\0\0\0No\nway", r"the X server says: No w"),
        (b"\2\0\0\0\0\0\0\0", r"another authentication"),
        (b"\1\0\x0b\0\0\0\0\0", r"hung up"),
    ],
)
async def test_an_invalid_handshake_is_one_error(
    answer: bytes, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XAUTHORITY", str(tmp_path / "none"))
    async with FakeServer(65002, answer):
        with pytest.raises(VramtapError, match=message) as caught:
            await target_of("x11::65002").__aenter__()
    assert "\n" not in str(caught.value)
