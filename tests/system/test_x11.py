"""Taps of real X servers: the pixels found in the server's memory are those the server says it shows."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xcffib
import xcffib.randr
import xcffib.xproto

from support.testbed.supervise import spawn, stop
from support.testbed.xclient import XClient
from support.testbed.xvfb import Framebuffer, Xvfb
from vramtap.display.mode import PixelFormat
from vramtap.display.screen import Screen
from vramtap.errors import NotFound, NotTappable, Refused, TargetGone, VramtapError
from vramtap.memory.process import ProcessSpace
from vramtap.pages import PageRuns
from vramtap.targets.open import open_target
from vramtap.targets.url import parse
from vramtap.targets.x11 import connection as xconnect
from vramtap.targets.x11.framebuffer_search import read_bytes
from vramtap.targets.x11.target import X11Target
from vramtap.trackers.base import AllDirty
from vramtap.trackers.userfault.log import LogTracker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

ITEM = {24: np.uint32, 16: np.uint16, 15: np.uint16, 8: np.uint8}
FORMAT = {24: PixelFormat.XR24, 16: PixelFormat.RG16, 15: PixelFormat.XR15, 8: PixelFormat.C8}
xproto: Any = xcffib.xproto
randr: Any = xcffib.randr


def target_of(url: str) -> X11Target:
    return X11Target(parse(url))


async def picture(target: X11Target) -> NDArray[np.uint32]:
    """What the target shows, all of it read anew."""
    mode = await target.mode()
    assert mode is not None
    screen = Screen()
    screen.set_mode(mode)
    screen.refresh(target.extent, PageRuns.full(target.extent.pages))
    return screen.pixels.copy()


@contextlib.contextmanager
def x_connection(display: str) -> Iterator[Any]:
    connect: Any = xcffib.connect
    connection = connect(display)
    try:
        yield connection
    finally:
        connection.disconnect()


@pytest.mark.parametrize("framebuffer", Framebuffer)
@pytest.mark.parametrize("depth", [24, 16, 8])
async def test_the_picture_is_the_servers(framebuffer: Framebuffer, depth: int) -> None:
    random = np.random.default_rng(depth)
    with Xvfb(framebuffer, 643, 487, depth) as server, XClient(server.display) as client:
        client.put(0, 0, random.integers(0, 1 << depth, (487, 643), ITEM[depth]))
        async with target_of(server.url) as target:
            mode = await target.mode()
            assert mode is not None
            assert (mode.width, mode.height, mode.format) == (643, 487, FORMAT[depth])
            np.testing.assert_array_equal(await picture(target), client.pixels())
            client.fill(600, 400, 43, 87, 1)
            client.put(5, 7, random.integers(0, 1 << depth, (100, 200), ITEM[depth]))
            client.copy(0, 10, 643, 477, 0, 0)
            np.testing.assert_array_equal(await picture(target), client.pixels())


@pytest.mark.parametrize("framebuffer", Framebuffer)
@pytest.mark.parametrize("depth", [24, 16, 8])
async def test_a_small_screen_is_found_in_the_heap(framebuffer: Framebuffer, depth: int) -> None:
    with Xvfb(framebuffer, 61, 37, depth) as server, XClient(server.display) as client:
        client.put(0, 0, np.random.default_rng(1).integers(0, 1 << depth, (37, 61), ITEM[depth]))
        async with target_of(server.url) as target:
            np.testing.assert_array_equal(await picture(target), client.pixels())


async def test_fifteen_bits_are_understood() -> None:
    with Xvfb(width=320, height=200, depth=15) as server, x_connection(server.display) as connection:
        root = connection.get_setup().roots[0]
        gc = connection.generate_id()
        connection.core.CreateGC(gc, root.root, xproto.GC.Foreground, [0b11111_00000_10000])
        box: Any = xproto.RECTANGLE
        connection.core.PolyFillRectangle(root.root, gc, 1, [box.synthetic(0, 0, 320, 100)])
        connection.core.GetInputFocus().reply()
        async with target_of(server.url) as target:
            seen = await picture(target)
            mode = await target.mode()
    assert mode is not None
    assert mode.format is PixelFormat.XR15
    assert (seen[:100] == 0xFF0084).all()
    assert not seen[100:].any()


@pytest.mark.parametrize("framebuffer", Framebuffer)
async def test_the_kernel_logs_what_the_server_writes(framebuffer: Framebuffer) -> None:
    with Xvfb(framebuffer, 640, 480) as server, XClient(server.display) as client:
        client.fill(0, 0, 640, 480, 0x203040)
        async with target_of(server.url) as target:
            mode = await target.mode()
            assert mode is not None
            screen, log = Screen(), LogTracker()
            log.start(target.extent)
            try:
                screen.set_mode(mode)
                assert isinstance(log.collect(), AllDirty)
                screen.refresh(target.extent, PageRuns.full(target.extent.pages))
                assert log.collect() == PageRuns()
                client.fill(100, 50, 2, 2, 0xABCDEF)
                runs = log.collect()
                assert isinstance(runs, PageRuns)
                assert 0 < runs.count <= 2
                damage = screen.refresh(target.extent, runs)
                assert damage.area == 4
                np.testing.assert_array_equal(screen.pixels, client.pixels())
            finally:
                log.stop()


async def test_each_screen_of_a_server_is_found() -> None:
    second = ("-screen", "1", "160x120x16")
    with Xvfb(width=320, height=200, arguments=second) as server, x_connection(server.display) as connection:
        root = connection.get_setup().roots[1].root
        gc = connection.generate_id()
        connection.core.CreateGC(gc, root, xproto.GC.Foreground, [0xF800])
        box: Any = xproto.RECTANGLE
        connection.core.PolyFillRectangle(root, gc, 1, [box.synthetic(0, 0, 160, 120)])
        connection.core.GetInputFocus().reply()
        async with target_of(server.url) as first, target_of(f"{server.url}.1") as other:
            assert (await picture(first)).shape == (200, 320)
            seen = await picture(other)
        assert seen.shape == (120, 160)
        assert (seen == 0xFF0000).all()
        with pytest.raises(NotFound, match=r"has 2 screens"):
            await target_of(f"{server.url}.2").__aenter__()


async def test_two_screens_of_one_look_are_told_apart() -> None:
    second = ("-screen", "1", "320x200x24")
    with Xvfb(width=320, height=200, arguments=second) as server, XClient(server.display) as client:
        async with target_of(server.url) as first, target_of(f"{server.url}.1") as other:
            client.fill(0, 0, 320, 200, 0x123456)
            assert (await picture(first) == 0x123456).all()
            assert not (await picture(other)).any()


async def test_a_new_size_is_followed() -> None:
    with Xvfb(width=640, height=480) as server, XClient(server.display) as client:
        client.put(0, 0, np.random.default_rng(2).integers(0, 1 << 24, (480, 640), np.uint32))
        async with target_of(server.url) as target:
            assert target.announces_mode
            heard = asyncio.Event()
            target.watch(heard.set)
            with x_connection(server.display) as connection:
                resize(connection, 401, 303)
                await asyncio.wait_for(heard.wait(), 30)
                small = await target.mode()
                assert small is not None
                assert (small.width, small.height, small.stride_bytes) == (401, 303, 2560)
                client.fill(390, 290, 11, 13, 0xFF00FF)
                np.testing.assert_array_equal(await picture(target), client.pixels())
                resize(connection, 640, 480)
                back = await target.mode()
            assert back is not None
            assert (back.width, back.height) == (640, 480)
            np.testing.assert_array_equal(await picture(target), client.pixels())


async def test_a_server_that_was_resized_before_is_tapped() -> None:
    with Xvfb(width=640, height=480) as server, XClient(server.display) as client:
        with x_connection(server.display) as connection:
            resize(connection, 320, 240)
        client.put(0, 0, np.random.default_rng(3).integers(0, 1 << 24, (240, 320), np.uint32))
        async with target_of(server.url) as target:
            np.testing.assert_array_equal(await picture(target), client.pixels())


def resize(connection: Any, width: int, height: int) -> None:  # noqa: ANN401 - xcffib is not typed
    """Give the screen another size, as a client of RANDR does; return when it has been done."""
    root = connection.get_setup().roots[0].root
    control = connection(randr.key)
    control.QueryVersion(1, 5).reply()
    resources = control.GetScreenResources(root).reply()
    # The output does not fit a smaller screen and has to be off first.
    stamp = resources.config_timestamp
    control.SetCrtcConfig(resources.crtcs[0], 0, stamp, 0, 0, 0, 1, 0, []).reply()
    control.SetScreenSizeChecked(root, width, height, 100, 80).check()


async def test_a_new_palette_is_followed() -> None:
    with Xvfb(width=320, height=200, depth=8) as server, x_connection(server.display) as connection:
        root = connection.get_setup().roots[0]
        async with target_of(server.url) as target:
            before = await target.mode()
            colors, item = connection.generate_id(), xproto.COLORITEM
            connection.core.CreateColormap(1, colors, root.root, root.root_visual)
            connection.core.StoreColors(colors, 1, [item.synthetic(7, 0x1234, 0xFFFF, 0x0100, 7)])
            connection.core.InstallColormap(colors)
            connection.core.GetInputFocus().reply()
            after = await target.mode()
    assert before is not None
    assert after is not None
    assert before.palette is not None
    assert after.palette is not None
    assert before.palette != after.palette
    assert after.palette[7] == 0x12FF01


@pytest.mark.parametrize("framebuffer", Framebuffer)
async def test_new_colors_are_written_where_the_screen_begins(framebuffer: Framebuffer) -> None:
    with (
        Xvfb(framebuffer, 640, 480, depth=8) as server,
        x_connection(server.display) as connection,
    ):
        root = connection.get_setup().roots[0]
        colors, item = connection.generate_id(), xproto.COLORITEM
        connection.core.CreateColormap(1, colors, root.root, root.root_visual)
        async with target_of(server.url) as target:
            assert target.announces_mode
            mode = await target.mode()
            assert mode is not None
            log = LogTracker()
            log.start(target.extent)
            try:
                log.collect()
                changes: tuple[Callable[[], object], ...] = (
                    lambda: connection.core.InstallColormap(colors),
                    lambda: connection.core.StoreColors(colors, 1, [item.synthetic(7, 1 << 8, 0, 0, 7)]),
                )
                for change in changes:
                    assert log.collect(mode.window) == PageRuns()
                    change()
                    connection.core.GetInputFocus().reply()
                    first = mode.window[0]
                    assert log.collect(mode.window) == PageRuns([(first, first + 1)])
            finally:
                log.stop()


async def test_eight_bits_with_fixed_colors_are_understood() -> None:
    with Xvfb(width=320, height=200, depth=8, arguments=("-cc", "4")) as server:
        with XClient(server.display) as client:
            client.put(0, 0, np.random.default_rng(4).integers(0, 256, (200, 320), np.uint8))
            async with target_of(server.url) as target:
                seen = await picture(target)
                mode = await target.mode()
        assert mode is not None
        assert mode.palette is not None
        assert mode.palette[0b11_000_111] == 0xFF00FF
        assert len(np.unique(seen)) == 256


async def test_pixels_that_are_not_understood_are_refused() -> None:
    refusal = pytest.raises(NotTappable, match=r"depth 30 .*start it with depth 24")
    with Xvfb(width=320, height=200, depth=30) as server, refusal:
        await target_of(server.url).__aenter__()


@contextlib.contextmanager
def server_with_cursor() -> Iterator[str]:
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as announced:
        argv = [
            "Xvfb",
            "-displayfd",
            str(write_end),
            "-screen",
            "0",
            "64x64x24",
            "-noreset",
            "-nolisten",
            "tcp",
        ]
        process = spawn(argv, stderr=-3, pass_fds=(write_end,))
        os.close(write_end)
        try:
            yield f":{announced.readline().decode().strip()}"
        finally:
            stop(process, gently_s=10)


async def test_a_cursor_in_the_pixels_does_not_matter() -> None:
    with server_with_cursor() as display, x_connection(display) as connection:
        root = connection.get_setup().roots[0].root
        font, cursor = connection.generate_id(), connection.generate_id()
        connection.core.OpenFont(font, 6, "cursor")
        connection.core.CreateGlyphCursor(cursor, font, font, 68, 69, 0, 0, 0, 0xFFFF, 0xFFFF, 0xFFFF)
        connection.core.ChangeWindowAttributes(root, xproto.CW.Cursor, [cursor])
        connection.core.GetInputFocus().reply()
        async with target_of(f"x11:{display}") as target:
            assert (await picture(target)).any(), "the cursor is drawn into the screen's memory"


async def test_a_screen_that_changes_all_the_time_is_found() -> None:
    frames = np.random.default_rng(7).integers(0, 1 << 24, (2, 480, 640), np.uint32)
    enough = threading.Event()

    def draw(client: XClient) -> None:
        while not enough.is_set():
            for frame in frames:
                client.put(0, 0, frame)

    with Xvfb(width=640, height=480) as server, XClient(server.display) as client:
        drawing = asyncio.create_task(asyncio.to_thread(draw, client))
        try:
            for _ in range(5):
                async with target_of(server.url) as target:
                    assert await target.mode() is not None
        finally:
            enough.set()
            await drawing


async def test_a_server_that_keeps_its_screen_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vramtap.targets.x11.target.find_headers", lambda *_: [])
    refusal = pytest.raises(
        NotTappable, match=r"no framebuffer of Xvfb's kind in Xvfb .*run the programs in an Xvfb"
    )
    with Xvfb(width=64, height=64) as server, refusal:
        await target_of(server.url).__aenter__()


async def test_a_root_window_made_of_several_screens_is_refused() -> None:
    joined = ("-screen", "1", "128x64x24", "+xinerama")
    refusal = pytest.raises(NotTappable, match=r"none of 1 framebuffers in Xvfb .* agrees with what it shows")
    with Xvfb(width=64, height=64, arguments=joined) as server, refusal:
        await target_of(server.url).__aenter__()


async def test_a_stale_copy_that_a_client_made_is_not_taken() -> None:
    with Xvfb(width=64, height=64) as server, XClient(server.display) as client:
        client.fill(0, 0, 64, 64, 0x111111)
        async with target_of(server.url) as target:
            block = server_block(server.pid, target)
        with x_connection(server.display) as connection:
            keep(connection, block)
            client.fill(0, 0, 64, 64, 0x222222)
            async with target_of(server.url) as target:
                client.fill(0, 0, 64, 64, 0x333333)
                assert (await picture(target) == 0x333333).all()


async def test_an_exact_copy_that_a_client_made_is_noticed() -> None:
    with Xvfb(width=64, height=64) as server, XClient(server.display) as client:
        client.fill(0, 0, 64, 64, 0x111111)
        async with target_of(server.url) as target:
            block = server_block(server.pid, target)
        with x_connection(server.display) as connection:
            keep(connection, block)
            with pytest.raises(NotTappable, match=r"holds \d pictures of its screen"):
                await target_of(server.url).__aenter__()


def server_block(pid: int, target: X11Target) -> bytes:
    """Header, colour map and pixels, as they lie in the server."""
    space = ProcessSpace(pid)
    try:
        return read_bytes(space, target._place.address, target._place.header.end_offset)
    finally:
        space.close()


def keep(connection: Any, data: bytes) -> None:  # noqa: ANN401 - xcffib is not typed
    """Make the server hold these bytes."""
    root = connection.get_setup().roots[0].root
    name = b"VRAMTAP_TEST"
    atom = connection.core.InternAtom(False, len(name), name).reply().atom
    connection.core.ChangeProperty(0, root, atom, 19, 8, len(data), data)
    connection.core.GetInputFocus().reply()


async def test_a_server_that_exits_is_noticed() -> None:
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


async def test_a_server_that_cuts_the_connection_is_noticed() -> None:
    with Xvfb(width=64, height=64) as server:
        async with target_of(server.url) as target:
            assert target._link is not None
            target._link.sever()
            assert (
                await asyncio.wait_for(target.gone(), 30) == f"Xvfb (pid {server.pid}) closed our connection"
            )
            with pytest.raises(TargetGone):
                await target.mode()


async def test_attaching_leaves_the_server_as_it_was() -> None:
    with Xvfb(width=64, height=64) as server, XClient(server.display) as client:
        client.fill(0, 0, 64, 64, 0x445566)
        before = client.pixels()
        descriptors = len(os.listdir(f"/proc/{os.getpid()}/fd"))
        for _ in range(3):
            async with target_of(server.url):
                pass
        np.testing.assert_array_equal(client.pixels(), before)
        assert len(os.listdir(f"/proc/{os.getpid()}/fd")) == descriptors


async def test_a_display_that_is_not_there() -> None:
    with pytest.raises(
        NotFound, match=r"no X server there \(/tmp/.X11-unix/X65000 is missing\) \(see vramtap ls\)"
    ):
        await target_of("x11::65000").__aenter__()


async def test_a_socket_that_a_dead_server_left() -> None:
    path = Path(xconnect.SOCKET_DIRECTORY) / "X65001"
    path.parent.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    try:
        with pytest.raises(NotFound, match=r"the server has ended and left .*X65001"):
            await target_of("x11::65001").__aenter__()
    finally:
        path.unlink()


async def test_a_server_that_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xconnect, "ANSWER_TIMEOUT_S", 0.3)
    with Xvfb(width=64, height=64) as server:
        os.kill(server.pid, signal.SIGSTOP)
        try:
            with pytest.raises(NotTappable, match=r"does not answer.*is it stopped, or grabbed"):
                await target_of(server.url).__aenter__()
        finally:
            os.kill(server.pid, signal.SIGCONT)


async def test_a_server_that_stops_while_it_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vramtap.targets.x11.target.ATTACH_TIMEOUT_S", 0.3)
    monkeypatch.setattr(X11Target, "_find", stop_and_ask)
    with Xvfb(width=64, height=64) as server:
        try:
            with pytest.raises(NotTappable, match=r"did not answer for 0.3 s"):
                await target_of(server.url).__aenter__()
        finally:
            os.kill(server.pid, signal.SIGCONT)


def stop_and_ask(_: X11Target, link: xconnect.Link, space: ProcessSpace) -> None:
    os.kill(link.pid, signal.SIGSTOP)
    link.connection.core.GetInputFocus().reply()


def write_cookie(path: Path, display: bytes, cookie: bytes) -> None:
    parts = (socket.gethostname().encode(), display, b"MIT-MAGIC-COOKIE-1", cookie)
    path.write_bytes(b"\1\0" + b"".join(struct.pack(">H", len(part)) + part for part in parts))


async def test_cookies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A colon in a cookie: xcffib's own way of passing one cuts it there.
    own, mine, wrong = tmp_path / "own", tmp_path / "mine", tmp_path / "wrong"
    write_cookie(own, b"", b"0123:567\0abcdefg")
    with Xvfb(width=64, height=64, arguments=("-auth", str(own))) as server:
        monkeypatch.setenv("XAUTHORITY", str(tmp_path / "none"))
        async with target_of(server.url) as target:
            assert target.server == "Xvfb", "the file the server was started with serves"
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
    """Something that listens as an X server would, in this process, and answers what it is told to."""

    def __init__(self, number: int, answer: bytes) -> None:
        self.path = Path(xconnect.SOCKET_DIRECTORY) / f"X{number}"
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
    ("answer", "said"),
    [
        (b"", r"the server hung up"),
        (b"\1", r"the server hung up"),
        (b"\0\5\0\0\0\0\0\0No\nway", r"the X server says: No w"),
        (b"\2\0\0\0\0\0\0\0", r"another authentication"),
        (b"\1\0\x0b\0\0\0\0\0", r"hung up"),
    ],
)
async def test_something_else_that_listens_there(
    answer: bytes, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XAUTHORITY", str(tmp_path / "none"))
    async with FakeServer(65002, answer):
        with pytest.raises(VramtapError, match=said) as caught:
            await target_of("x11::65002").__aenter__()
    assert "\n" not in str(caught.value)


def test_the_registry_gives_this_target() -> None:
    assert isinstance(open_target("x11::99"), X11Target)
