"""Real guests: whenever they are quiet, the tap's screen equals QEMU's screendump byte for byte."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np
import pytest

import vramtap
from support.model_client import ModelClient
from support.testbed.guest import Guest
from vramtap.display.mode import PixelFormat

if TYPE_CHECKING:
    from pathlib import Path

    from vramtap.tap.tap import Tap

TRACKERS = ("hybrid", "log", "compare")


async def run(guest: Guest, client: ModelClient, command: str) -> None:
    """Run a command in the guest while a client follows; then the client must show the screendump."""
    await asyncio.to_thread(guest.run, command)
    await shows(guest, client)


async def shows(guest: Guest, client: ModelClient) -> None:
    """Check that the client shows the screendump, and that a scan changes nothing more."""
    truth = await asyncio.to_thread(guest.screendump)
    await client.shows(truth)
    # A picture may be right by chance; for instance, black is the same in every mode.
    await client.tap.refresh()
    await client.shows(truth)


@pytest.fixture(params=TRACKERS)
def tracker(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


DRAWING = {
    "scrolling text": "seq 1 400 >/dev/tty1",
    "noise through /dev/fb0": "cat /dev/urandom >/dev/fb0 || true",
    "noise in pieces": "dd if=/dev/urandom of=/dev/fb0 bs=3000 count=300 seek=20",
    "single pixels at the edges": "fbtool edges 0xFFFFFF",
    "single pixels anywhere": "fbtool stress 7 5000",
    "every pixel, written one by one": "fbtool noise 3",
    "a picture that moves up": "fbtool noise 4; fbtool scroll 16 12; fbtool scroll 1 5",
    "a filled screen": "fbtool fill 0x123456",
    "text over noise": "fbtool noise 5; echo hello >/dev/tty1",
}


async def test_drawing_is_shown_exactly(guest: Guest, tracker: str) -> None:
    async with vramtap.open(guest.url, tracker=tracker) as tap, ModelClient(tap) as client:
        assert tap.stats.tracker == tracker
        await shows(guest, client)
        for command in DRAWING.values():
            await run(guest, client, command)
            assert tap.screen.mode is not None, "the picture comes from memory, not from screendumps"
        assert tap.stats.snapshots == 0
        assert client.moved, "scrolling text is sent as moves"


async def test_single_pixels_at_the_edges_are_shown(guest: Guest, tracker: str) -> None:
    async with vramtap.open(guest.url, tracker=tracker) as tap, ModelClient(tap) as client:
        for number, (x, y) in enumerate([(0, 0), (1023, 0), (0, 767), (1023, 767), (512, 767), (1023, 300)]):
            color = 0x10F0A0 + number
            await run(guest, client, f"fbtool pixel {x} {y} {color:#x}")
            assert client.pixels[y, x] == color


async def test_page_flips_are_shown(guest: Guest, tracker: str) -> None:
    async with vramtap.open(guest.url, tracker=tracker) as tap, ModelClient(tap) as client:
        shown = []
        for times in (1, 2, 7, 30):
            await run(guest, client, f"fbtool flip {times} {times}")
            assert tap.screen.mode is not None
            shown.append(tap.screen.mode.offset_bytes)
        assert set(shown) == {0, 768 * 4096}
        # A flip without drawing dirties no page.
        for row in (768, 300):
            await run(guest, client, f"fbtool offset 0 {row}")


MODES = (
    "800 600 32",
    "640 480 24",
    "1280 720 16",
    "800 600 15",
    "640 480 8",
    "1920 1080 32",
    "640 480 24 1000",
    "800 600 32 1024 1200 8 100",
    "640 480 16 1000 1000 33 17",
    "640 480 15 808 600 3 1",
    "640 480 24 648 960 5 11",
    "8 1 32",
    "1024 768 32",
)


async def test_resolutions_formats_and_offsets_are_shown(guest: Guest, tracker: str) -> None:
    linear = {32: PixelFormat.XR24, 24: PixelFormat.RG24, 16: PixelFormat.RG16, 15: None, 8: None}
    async with vramtap.open(guest.url, tracker=tracker) as tap, ModelClient(tap) as client:
        for number, mode in enumerate(MODES):
            await run(guest, client, f"fbtool mode {mode}")
            await run(guest, client, f"fbtool palette {number}; fbtool noise {number}; fbtool edges 0xFFFFFF")
            width, height, bits = (int(word) for word in mode.split()[:3])
            assert (tap.screen.width, tap.screen.height) == (width, height)
            assert (tap.screen.mode and tap.screen.mode.format) == linear[bits]
        assert len(client.sizes) >= 9


async def test_a_palette_that_changes(guest: Guest, tracker: str) -> None:
    async with vramtap.open(guest.url, tracker=tracker) as tap, ModelClient(tap) as client:
        await run(guest, client, "fbtool mode 640 480 8; fbtool palette 1; fbtool noise 1")
        for seed in (2, 3):
            before = client.pixels.copy()
            await run(guest, client, f"fbtool palette {seed}")
            assert np.count_nonzero(before != client.pixels) > before.size // 2


async def test_screendumps_replace_a_missing_framebuffer(guest: Guest, tracker: str) -> None:
    async with vramtap.open(guest.url, tracker=tracker) as tap, ModelClient(tap) as client:
        await run(guest, client, "fbtool off")
        assert tap.screen.mode is None
        assert tap.stats.snapshots > 0
        await run(guest, client, "fbtool mode 1024 768 32; fbtool noise 8")
        assert tap.screen.mode is not None


async def test_a_tap_that_begins_while_the_guest_draws(guest: Guest, tracker: str) -> None:
    """The first picture contains what was drawn before the tap began."""
    painter = await asyncio.to_thread(guest.spawn, "fbtool draw 3 1")
    async with vramtap.open(guest.url, tracker=tracker) as tap, ModelClient(tap) as client:
        await client.until(lambda: client.updates > 20)
        await asyncio.to_thread(guest.kill, painter)
        await shows(guest, client)


async def test_late_and_slow_viewers_show_the_same_pixels(guest: Guest, tracker: str) -> None:
    async with vramtap.open(guest.url, tracker=tracker) as tap:
        await asyncio.to_thread(guest.run, "fbtool noise 1")
        slow = ModelClient(tap, busy=lambda: guest.run("true"))
        async with slow, ModelClient(tap, moves=False) as unmoved:
            await asyncio.to_thread(guest.run, "seq 1 200 >/dev/tty1; fbtool scroll 8 20; fbtool noise 2")
            truth = await asyncio.to_thread(guest.screendump)
            await unmoved.shows(truth)
            await slow.shows(truth)
        assert not unmoved.moved
        polls = tap.stats.polls
        await asyncio.to_thread(guest.run, "fbtool edges 0x00FF00; fbtool scroll 3")
        assert tap.stats.polls == polls, "no viewer waits, so the tap does not poll"
        async with ModelClient(tap) as late:
            await shows(guest, late)


async def test_pixels_stay_exact_through_two_boots(tmp_path: Path) -> None:
    """Both trackers follow one guest from its firmware's text mode through two boots."""
    second = tmp_path / "second.sock"
    # The firmware's menu waits in text mode for a key. No key is sent.
    menu = ("-boot", "menu=on,splash-time=1000")
    guest = Guest((*menu, "-qmp", f"unix:{second},server=on,wait=off"))
    await asyncio.to_thread(guest.start)
    try:
        async with (
            vramtap.open(guest.url, tracker="hybrid") as hybrid,
            vramtap.open(f"qemu:{second}", tracker="compare") as compare,
            ModelClient(hybrid) as hybrid_client,
            ModelClient(compare) as compare_client,
        ):
            pairs = ((hybrid, hybrid_client), (compare, compare_client))
            assert hybrid.screen.mode is None, "the guest begins with the firmware's text"
            await asyncio.to_thread(guest.wait_ready)
            await _quiet_and_exact(guest, pairs)
            for _, client in pairs:
                assert client.sizes[-1] == (1024, 768)
                client.sizes.clear()
            await asyncio.to_thread(guest.reboot)
            await _quiet_and_exact(guest, pairs)
            for tap, client in pairs:
                assert len(client.sizes) >= 2, "text was shown between the boots"
                assert client.sizes[-1] == (1024, 768)
                assert tap.stats.snapshots > 0
                assert not tap.closed
    finally:
        await asyncio.to_thread(guest.stop)


async def _quiet_and_exact(guest: Guest, pairs: tuple[tuple[Tap, ModelClient], ...]) -> None:
    await asyncio.to_thread(guest.quiet)
    truth = await asyncio.to_thread(guest.screendump)
    assert truth.shape == (768, 1024)
    assert len(np.unique(truth)) > 1, "the kernel's messages"
    for tap, client in pairs:
        await client.shows(truth)
        await tap.refresh()
        await client.shows(truth)
