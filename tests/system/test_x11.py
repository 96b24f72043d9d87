"""Real X servers: the pixels found in the server's memory are those that the server shows."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xcffib
import xcffib.xproto

from support.testbed.supervise import spawn, stop
from support.testbed.xclient import XClient
from support.testbed.xvfb import Framebuffer, Xvfb
from support.x11 import picture, resize, target_of, x_connection
from vramtap.display.mode import PixelFormat
from vramtap.display.screen import Screen
from vramtap.errors import NotFound, NotTappable
from vramtap.memory.process import ProcessSpace
from vramtap.pages import PageRuns
from vramtap.targets.x11.framebuffer_search import read_bytes
from vramtap.trackers.base import AllDirty
from vramtap.trackers.userfault.log import LogTracker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vramtap.targets.x11.target import X11Target

ITEM = {24: np.uint32, 16: np.uint16, 15: np.uint16, 8: np.uint8}
FORMAT = {24: PixelFormat.XR24, 16: PixelFormat.RG16, 15: PixelFormat.XR15, 8: PixelFormat.C8}
xproto: Any = xcffib.xproto


@pytest.mark.parametrize("framebuffer", Framebuffer)
@pytest.mark.parametrize("depth", [24, 16, 8])
async def test_pixels_equal_what_the_server_shows(framebuffer: Framebuffer, depth: int) -> None:
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


async def test_depth_15_is_supported() -> None:
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
async def test_the_log_tracker_sees_the_servers_writes(framebuffer: Framebuffer) -> None:
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


async def test_each_screen_of_a_server_can_be_tapped() -> None:
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


async def test_two_equal_screens_are_distinguished() -> None:
    second = ("-screen", "1", "320x200x24")
    with Xvfb(width=320, height=200, arguments=second) as server, XClient(server.display) as client:
        async with target_of(server.url) as first, target_of(f"{server.url}.1") as other:
            client.fill(0, 0, 320, 200, 0x123456)
            assert (await picture(first) == 0x123456).all()
            assert not (await picture(other)).any()


async def test_a_resize_is_announced_and_followed() -> None:
    with Xvfb(width=640, height=480) as server, XClient(server.display) as client:
        client.put(0, 0, np.random.default_rng(2).integers(0, 1 << 24, (480, 640), np.uint32))
        async with target_of(server.url) as target:
            assert target.announces_mode
            announced = asyncio.Event()
            target.watch(announced.set)
            with x_connection(server.display) as connection:
                resize(connection, 401, 303)
                await asyncio.wait_for(announced.wait(), 30)
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


async def test_a_server_that_was_resized_before_can_be_tapped() -> None:
    with Xvfb(width=640, height=480) as server, XClient(server.display) as client:
        with x_connection(server.display) as connection:
            resize(connection, 320, 240)
        client.put(0, 0, np.random.default_rng(3).integers(0, 1 << 24, (240, 320), np.uint32))
        async with target_of(server.url) as target:
            np.testing.assert_array_equal(await picture(target), client.pixels())


async def test_a_new_palette_is_read() -> None:
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
async def test_new_colours_dirty_the_first_page_of_the_screen(framebuffer: Framebuffer) -> None:
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


async def test_depth_8_with_fixed_colours_is_supported() -> None:
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


async def test_a_cursor_in_the_pixels_does_not_prevent_attaching() -> None:
    with server_with_cursor() as display, x_connection(display) as connection:
        root = connection.get_setup().roots[0].root
        font, cursor = connection.generate_id(), connection.generate_id()
        connection.core.OpenFont(font, 6, "cursor")
        connection.core.CreateGlyphCursor(cursor, font, font, 68, 69, 0, 0, 0, 0xFFFF, 0xFFFF, 0xFFFF)
        connection.core.ChangeWindowAttributes(root, xproto.CW.Cursor, [cursor])
        connection.core.GetInputFocus().reply()
        async with target_of(f"x11:{display}") as target:
            assert (await picture(target)).any(), "the server draws the cursor into its framebuffer"


async def test_a_screen_that_changes_all_the_time_can_be_tapped() -> None:
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


async def test_an_old_copy_that_a_client_made_is_not_tapped() -> None:
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


async def test_an_exact_copy_that_a_client_made_is_refused() -> None:
    with Xvfb(width=64, height=64) as server, XClient(server.display) as client:
        client.fill(0, 0, 64, 64, 0x111111)
        async with target_of(server.url) as target:
            block = server_block(server.pid, target)
        with x_connection(server.display) as connection:
            keep(connection, block)
            with pytest.raises(NotTappable, match=r"holds \d pictures of its screen"):
                await target_of(server.url).__aenter__()


def server_block(pid: int, target: X11Target) -> bytes:
    """Read header, colour map and pixels from the server's memory."""
    space = ProcessSpace(pid)
    try:
        return read_bytes(space, target._framebuffer.address, target._framebuffer.header.end_offset)
    finally:
        space.close()


def keep(connection: Any, data: bytes) -> None:  # noqa: ANN401 - xcffib is not typed
    """Make the server store these bytes in a property."""
    root = connection.get_setup().roots[0].root
    name = b"VRAMTAP_TEST"
    atom = connection.core.InternAtom(0, len(name), name).reply().atom
    connection.core.ChangeProperty(0, root, atom, 19, 8, len(data), data)
    connection.core.GetInputFocus().reply()


async def test_attach_and_detach_change_nothing_and_leak_no_descriptor() -> None:
    with Xvfb(width=64, height=64) as server, XClient(server.display) as client:
        client.fill(0, 0, 64, 64, 0x445566)
        before = client.pixels()
        descriptors = len(os.listdir(f"/proc/{os.getpid()}/fd"))
        for _ in range(3):
            async with target_of(server.url):
                pass
        np.testing.assert_array_equal(client.pixels(), before)
        assert len(os.listdir(f"/proc/{os.getpid()}/fd")) == descriptors
