"""`vramtap serve` with every kind of target: every viewer shows exactly the target's pixels."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import numpy as np
import pytest

from support.follower import Follower
from support.pictures import RGB565, RGBX
from support.program import serve
from support.rfb_client import (
    COPY_RECT,
    DESKTOP_SIZE,
    EXTENDED_DESKTOP_SIZE,
    RAW,
    TIGHT,
    ZRLE,
    PixelFormat,
)
from support.testbed.writer import Writer
from support.testbed.xclient import XClient
from support.testbed.xvfb import Framebuffer, Xvfb

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from support.testbed.guest import Guest

SIZES = (DESKTOP_SIZE, EXTENDED_DESKTOP_SIZE)
WIDTH, HEIGHT = 640, 480
SIZE_BYTES = WIDTH * HEIGHT * 4

VIEWERS: dict[str, tuple[tuple[int, ...], PixelFormat | None]] = {
    "raw": ((RAW, DESKTOP_SIZE), None),
    "raw with copyrect": ((COPY_RECT, RAW, *SIZES), PixelFormat(big_endian=True)),
    "zrle": ((COPY_RECT, ZRLE, *SIZES), RGBX),
    "zrle, 16 bits": ((ZRLE, DESKTOP_SIZE), RGB565),
    "tight, lossless": ((TIGHT, *SIZES), None),
    "tight with copyrect": ((COPY_RECT, TIGHT, DESKTOP_SIZE), PixelFormat(shifts=(24, 16, 8))),
}

ACTIONS = (
    "fbtool noise 1",
    "seq 1 300 >/dev/tty1",
    "fbtool scroll 16 10; fbtool edges 0xFFFFFF",
    "fbtool mode 800 600 32; fbtool noise 2; fbtool scroll 3",
    "fbtool mode 640 480 16; fbtool noise 3; fbtool stress 4 500",
    "fbtool mode 1024 768 32; fbtool flip 3 5",
    "fbtool off",
    "fbtool mode 1280 720 32 1280 1600 0 40; fbtool stress 9 2000",
)


def picture_of(memory: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Return the picture in this memory."""
    pixels = memory[:SIZE_BYTES].view(np.uint32) & np.uint32(0xFFFFFF)
    return pixels.reshape(HEIGHT, WIDTH)


def test_every_viewer_equals_the_screendump_after_every_action(guest: Guest) -> None:
    with serve(guest.url) as server:
        with contextlib.ExitStack() as stack:
            followers = {
                name: stack.enter_context(Follower(server.connect(encodings, wanted)))
                for name, (encodings, wanted) in VIEWERS.items()
            }
            for action in ACTIONS:
                guest.run(action)
                truth = guest.screendump()
                for name, follower in followers.items():
                    follower.shows(truth, f"{name} after {action}")
        (report,) = server.stop()
        assert report["ended"] is None, "the guest still runs"
        assert report["stats"]["failures"] == 0


@pytest.mark.parametrize("framebuffer", Framebuffer)
def test_x_server_is_served(framebuffer: Framebuffer) -> None:
    with (
        Xvfb(framebuffer, 803, 601) as xvfb,
        XClient(xvfb.display) as x,
        serve(xvfb.url) as server,
    ):
        with Follower(server.connect((COPY_RECT, ZRLE))) as follower:
            for seed in range(3):
                x.put(0, 0, np.random.default_rng(seed).integers(0, 1 << 24, (601, 803), np.uint32))
                x.copy(0, 100, 803, 400, 0, 50)
                x.fill(700, 500, 103, 101, seed)
                follower.shows(x.pixels())
        (report,) = server.stop()
        assert report["target"] == xvfb.url


def test_process_is_served() -> None:
    with Writer(SIZE_BYTES, writes=20_000, seed=3, pause_every=50) as writer:
        url = f"pid:{writer.pid}?address={writer.address:#x}&mode={WIDTH}x{HEIGHT}"
        with serve(url) as server:
            with Follower(server.connect((TIGHT,))) as follower:
                for _ in range(5):
                    writer.run()
                    follower.shows(picture_of(writer.memory()))
            (report,) = server.stop()
            assert report["stats"]["tracker"] == "hybrid"


def test_file_is_served(tmp_path: Path) -> None:
    file = tmp_path / "screen"
    file.touch()
    os.truncate(file, SIZE_BYTES)
    with (
        Writer(SIZE_BYTES, path=file, writes=20_000, seed=4, pause_every=50) as writer,
        serve(f"shm:{file}?mode={WIDTH}x{HEIGHT}") as server,
        Follower(server.connect((RAW,))) as follower,
    ):
        for _ in range(5):
            writer.run()
            follower.shows(picture_of(np.fromfile(file, np.uint8)))
        server.stop()


def test_each_target_has_its_own_port(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    pictures = [random.integers(0, 1 << 24, (HEIGHT, WIDTH), dtype=np.uint32) for _ in range(3)]
    files = [tmp_path / f"screen {number}" for number in range(3)]
    for file, picture in zip(files, pictures, strict=True):
        picture.tofile(file)
    urls = [f"shm:{file}?mode={WIDTH}x{HEIGHT}" for file in files]
    with serve(*urls) as server:
        for index, picture in enumerate(pictures):
            with Follower(server.connect((ZRLE,), index=index)) as follower:
                follower.shows(picture, urls[index])
                assert follower.client.name == f"vramtap {urls[index]}"
        reports = server.stop()
        assert sorted(report["target"] for report in reports) == sorted(urls)
