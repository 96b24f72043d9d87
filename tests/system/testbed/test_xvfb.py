"""Tests of the X server and the X client that other tests use."""

from __future__ import annotations

import subprocess

import numpy as np
import pytest

from support.testbed.errors import TestbedError
from support.testbed.require import program
from support.testbed.xclient import Input, XClient
from support.testbed.xvfb import Framebuffer, Xvfb


@pytest.mark.parametrize("framebuffer", Framebuffer)
@pytest.mark.parametrize(("depth", "dtype"), [(24, np.uint32), (16, np.uint16), (8, np.uint8)])
def test_drawn_pixels_are_read_back(
    framebuffer: Framebuffer, depth: int, dtype: type[np.unsignedinteger]
) -> None:
    with Xvfb(framebuffer, 639, 481, depth) as server, XClient(server.display) as client:
        assert (client.width, client.height, client.depth) == (639, 481, depth)
        noise = np.random.default_rng(depth).integers(0, 1 << depth, (481, 638), dtype)
        client.put(1, 0, noise)
        client.fill(0, 0, 1, 481, 0)
        seen = client.pixels()
        assert seen.shape == (481, 639)
        if depth == 24:
            np.testing.assert_array_equal(seen[:, 1:], noise)
        if depth == 16:
            np.testing.assert_array_equal(seen[:, 1:] >> 19, noise >> 11)
            np.testing.assert_array_equal(seen[:, 1:] >> 3 & 31, noise & 31)
        assert not seen[:, 0].any()
        client.copy(0, 10, 639, 471, 0, 0)
        np.testing.assert_array_equal(client.pixels()[:471], seen[10:])


def test_full_intensity_stays_full_at_16_bits() -> None:
    with Xvfb(depth=16, width=8, height=8) as server, XClient(server.display) as client:
        client.fill(0, 0, 8, 8, 0xFFFF)
        assert np.unique(client.pixels()).tolist() == [0xFFFFFF]


def test_framebuffer_is_in_the_announced_file_or_segment() -> None:
    with Xvfb(Framebuffer.FILE, 64, 64) as server:
        assert server.file.stat().st_size > 64 * 64 * 4
    with Xvfb(Framebuffer.SHMEM, 64, 64) as server:
        shmid = str(server.shmid)
        segments = subprocess.run(["ipcs", "-m", "-i", shmid], capture_output=True, text=True, check=True)
        assert f"lpid={server.pid}" in segments.stdout or f"cpid={server.pid}" in segments.stdout
    gone = subprocess.run(["ipcs", "-m", "-i", shmid], capture_output=True, text=True, check=False)
    assert "bytes=" not in gone.stdout


def test_client_receives_input() -> None:
    xdotool = program("xdotool", "xdotool")
    with Xvfb() as server, XClient(server.display) as client:
        client.listen()
        subprocess.run(
            [xdotool, "mousemove", "100", "120", "click", "1", "key", "a"],
            env={"DISPLAY": server.display},
            check=True,
        )
        assert [client.next_input() for _ in range(5)] == [
            Input("motion", False, 0, 100, 120),
            Input("button", True, 1, 100, 120),
            Input("button", False, 1, 100, 120),
            Input("key", True, ord("a"), 100, 120),
            Input("key", False, ord("a"), 100, 120),
        ]


def test_failed_start_reports_the_output_of_the_server() -> None:
    with (
        pytest.raises(TestbedError, match=r"Xvfb did not start: the server exited: .*no-such-option"),
        Xvfb(arguments=("-no-such-option",)),
    ):
        pass
