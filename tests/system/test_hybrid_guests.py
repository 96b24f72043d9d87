"""Tests of armed taps on real guests and X servers: every change wakes them, and every end is reported."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

import numpy as np
import pytest

from support.follower import Follower
from support.forced import ArmAtOnce, armed, asleep, require_arming, tapped
from support.model_client import ModelClient
from support.rfb_client import RAW, RfbClient
from support.testbed.xclient import XClient
from support.testbed.xvfb import Framebuffer, Xvfb
from vramtap.errors import TargetGone
from vramtap.policy.decide import OnlinePolicy, Policy
from vramtap.servers.vnc.server import VncServer
from vramtap.tap.timings import TapTimings

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from support.testbed.guest import Guest

pytestmark = pytest.mark.usefixtures("arming")

SOON = TapTimings(idle_after_s=0.1)
"""The taps arm 0.1 s after the last write. The default of 1 s would make these tests long."""
COMMANDS = (
    "fbtool pixel 1023 767 0x10F0A0",
    "seq 1 40 >/dev/tty1",
    "fbtool fill 0x123456",
    "fbtool noise 3; fbtool scroll 16 3",
)

_BACKSPACE = 0xFF08
"""Keysym of Backspace."""


@pytest.fixture
def arming() -> None:
    require_arming()


async def shows(guest: Guest, client: ModelClient) -> None:
    """Wait until the client shows QEMU's own screendump."""
    await client.shows(await asyncio.to_thread(guest.screendump))


@pytest.mark.parametrize("policy", [ArmAtOnce(), OnlinePolicy()], ids=lambda policy: policy.name)
async def test_an_armed_guest_that_draws_wakes_the_tap(guest: Guest, policy: Policy) -> None:
    async with tapped(guest.url, policy, timings=SOON) as (tap, tracker), ModelClient(tap) as client:
        for command in COMMANDS:
            await armed(tap, tracker)
            await asyncio.to_thread(guest.run, command)
            await shows(guest, client)
        assert tap.stats.all_dirty["woken"] >= len(COMMANDS)
        assert tap.stats.failures == 0


async def test_an_armed_guest_that_changes_its_mode_is_shown(guest: Guest) -> None:
    async with tapped(guest.url, ArmAtOnce(), timings=SOON) as (tap, tracker), ModelClient(tap) as client:
        for mode in ("800 600 32", "640 480 16", "1024 768 32"):
            await armed(tap, tracker)
            await asyncio.to_thread(guest.run, f"fbtool mode {mode}; fbtool noise 1")
            await shows(guest, client)


async def test_an_armed_guest_can_be_stopped_and_continued(guest: Guest) -> None:
    async with tapped(guest.url, ArmAtOnce(), timings=SOON) as (tap, tracker), ModelClient(tap) as client:
        for color in (0x112233, 0x445566):
            await armed(tap, tracker)
            await asyncio.to_thread(guest.monitor.execute, "stop")
            await shows(guest, client)
            await asyncio.to_thread(guest.monitor.execute, "cont")
            await asyncio.to_thread(guest.run, f"fbtool fill {color:#x}")
            await shows(guest, client)
        assert tap.closed is None


async def test_an_armed_guest_that_is_reset_is_shown(fresh_guest: Guest) -> None:
    guest = fresh_guest
    await asyncio.to_thread(guest.quiet)
    async with tapped(guest.url, ArmAtOnce(), timings=SOON) as (tap, tracker), ModelClient(tap) as client:
        await armed(tap, tracker)
        client.sizes.clear()
        await asyncio.to_thread(guest.reset)
        await asyncio.to_thread(guest.wait_ready)
        await asyncio.to_thread(guest.quiet)
        await shows(guest, client)
        await tap.refresh()
        await shows(guest, client)
        assert len(client.sizes) >= 2, "the guest showed text mode in between"
        assert tap.closed is None


def _quit(guest: Guest) -> str:
    guest.monitor.execute("quit")
    return "shut down"


def _kill(guest: Guest) -> str:
    os.kill(guest.pid, signal.SIGKILL)
    return "exited"


@pytest.mark.parametrize("end", [_quit, _kill])
async def test_the_end_of_an_armed_guest_closes_the_tap(
    fresh_guest: Guest, end: Callable[[Guest], str]
) -> None:
    await asyncio.to_thread(fresh_guest.quiet)
    async with (
        tapped(fresh_guest.url, ArmAtOnce(), timings=SOON) as (tap, tracker),
        ModelClient(tap) as client,
    ):
        await armed(tap, tracker)
        pid = fresh_guest.pid
        how = await asyncio.to_thread(end, fresh_guest)
        await client.ends()
        assert tap.closed == f"QEMU (pid {pid}) {how}"
        with pytest.raises(TargetGone):
            await tap.refresh()


async def test_a_write_wakes_only_the_tap_of_its_guest(guest: Guest, fresh_guest: Guest) -> None:
    await asyncio.to_thread(fresh_guest.quiet)
    async with (
        tapped(guest.url, ArmAtOnce(), timings=SOON) as (tap, tracker),
        tapped(fresh_guest.url, ArmAtOnce(), timings=SOON) as (other_tap, other_tracker),
        ModelClient(tap) as client,
        ModelClient(other_tap) as other_client,
    ):
        assert tracker.watchdog_pid != other_tracker.watchdog_pid
        for command in COMMANDS:
            for which, drawn in ((guest, client), (fresh_guest, other_client)):
                await armed(tap, tracker)
                await armed(other_tap, other_tracker)
                quiet = tap if which is fresh_guest else other_tap
                woken = quiet.stats.all_dirty["woken"]
                await asyncio.to_thread(which.run, command)
                await shows(which, drawn)
                assert quiet.stats.all_dirty["woken"] == woken, (
                    "a write to one guest woke the tap of the other"
                )


async def test_keys_reach_an_armed_guest_and_its_echo_is_shown(guest: Guest) -> None:
    async with (
        tapped(guest.url, ArmAtOnce(), timings=SOON) as (tap, tracker),
        VncServer(tap, port=0) as server,
    ):
        viewer = await asyncio.to_thread(RfbClient.connect, "127.0.0.1", server.port, None, (RAW,))
        with Follower(viewer) as follower:
            # The text is deleted again, because other tests use the same shell.
            for key in (*map(ord, "abc"), *3 * [_BACKSPACE]):
                await armed(tap, tracker)
                before = await asyncio.to_thread(guest.screendump)
                viewer.key(key, down=True)
                viewer.key(key, down=False)
                await asyncio.to_thread(follower.shows, await _differs(guest, before), hex(key))


async def _differs(guest: Guest, before: NDArray[np.uint32]) -> NDArray[np.uint32]:
    async with asyncio.timeout(60):
        while np.array_equal(after := await asyncio.to_thread(guest.screendump), before):
            pass
    return after


async def test_a_page_flip_of_an_armed_guest_is_shown_without_a_write(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page flip changes registers only. The tap finds it when it next reads the mode."""
    timings = TapTimings(idle_after_s=0.1, mode_idle_s=0.05, mode_armed_s=0.2)
    async with tapped(guest.url, ArmAtOnce(), timings=timings) as (tap, tracker), ModelClient(tap) as client:
        await asyncio.to_thread(guest.run, "fbtool noise 1")
        await shows(guest, client)
        for row in (300, 17, 0):
            await armed(tap, tracker)
            woken = tap.stats.all_dirty["woken"]
            await asyncio.to_thread(guest.run, f"fbtool offset 0 {row}")
            await shows(guest, client)
            assert tap.screen.mode is not None
            assert tap.screen.mode.offset_bytes == row * 4096
            assert tap.stats.all_dirty["woken"] == woken, "the guest wrote no page"


@pytest.mark.parametrize("framebuffer", Framebuffer)
async def test_an_idle_x_server_that_draws_is_shown(framebuffer: Framebuffer) -> None:
    with Xvfb(framebuffer, 803, 601) as server, XClient(server.display) as x:
        async with (
            tapped(server.url, ArmAtOnce(), timings=SOON) as (tap, tracker),
            ModelClient(tap) as client,
        ):
            # SysV shared memory and a file on a disk cannot be armed. The idle tap polls them.
            if framebuffer is not Framebuffer.FILE:
                assert bool(tracker.unarmable) is (framebuffer is Framebuffer.SHMEM)
            for seed in range(3):
                await asleep(tap) if tracker.unarmable else await armed(tap, tracker)
                picture = np.random.default_rng(seed).integers(0, 1 << 24, (601, 803), np.uint32)
                for draw in (
                    lambda picture=picture: x.put(0, 0, picture),
                    lambda: x.copy(0, 100, 803, 400, 0, 50),
                    lambda seed=seed: x.fill(700, 500, 103, 101, seed),
                ):
                    await asyncio.to_thread(draw)
                await client.shows(await asyncio.to_thread(x.pixels))
            assert tap.stats.failures == 0


async def test_the_end_of_an_armed_x_server_closes_the_tap() -> None:
    with Xvfb(width=320, height=200) as server:
        async with (
            tapped(server.url, ArmAtOnce(), timings=SOON) as (tap, tracker),
            ModelClient(tap) as client,
        ):
            await armed(tap, tracker)
            await asyncio.to_thread(server.kill)
            await client.ends()
            assert tap.closed == f"Xvfb (pid {server.pid}) exited"
