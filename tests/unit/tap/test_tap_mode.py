"""The tap and modes: page flips, palettes, and modes without a linear framebuffer."""

from __future__ import annotations

import asyncio
import dataclasses

import numpy as np
import pytest

from support.faulty import XR24, FaultyTarget
from support.tapped import TRACKERS, followed
from support.virtual_time import in_virtual_time
from vramtap.display.mode import Mode, PixelFormat
from vramtap.pages import PAGE_SIZE
from vramtap.tap.timings import DEFAULT_TIMINGS

pytestmark = pytest.mark.usefixtures("no_defect")


@pytest.mark.parametrize("tracker", TRACKERS)
@in_virtual_time
async def test_page_flip_without_a_write_is_seen(tracker: str) -> None:
    target, loop = FaultyTarget(), asyncio.get_running_loop()
    other = dataclasses.replace(XR24, offset_bytes=20 * PAGE_SIZE + 12)
    target.write(other.offset_bytes, bytes(range(256)) * 40)
    async with followed(target, tracker) as (_, client):
        for mode in (other, XR24, other):
            await asyncio.sleep(5)
            began_s = loop.time()
            target.shown = mode
            await client.shows(target.truth)
            assert loop.time() - began_s <= DEFAULT_TIMINGS.mode_idle_s + DEFAULT_TIMINGS.interval_s + 0.1


@pytest.mark.parametrize("tracker", TRACKERS)
@in_virtual_time
async def test_double_buffering_is_followed(tracker: str) -> None:
    target = FaultyTarget()
    pages = XR24, dataclasses.replace(XR24, offset_bytes=20 * PAGE_SIZE)
    async with followed(target, tracker) as (_, client):
        for number in range(200):
            hidden = pages[number % 2]
            target.write(hidden.offset_bytes, bytes([number % 256]) * hidden.stride_bytes * hidden.height)
            target.shown = hidden
            await asyncio.sleep(0.007)
        await client.shows(target.truth)


@pytest.mark.parametrize("tracker", TRACKERS)
@in_virtual_time
async def test_palette_change_without_a_write_is_seen(tracker: str) -> None:
    palettes = [tuple(0x010203 * seed * index & 0xFFFFFF for index in range(256)) for seed in (1, 5, 7)]
    mode = Mode(64, 32, 64, PixelFormat.C8, 100, palettes[0])
    target = FaultyTarget(mode)
    target.write(100, bytes(range(256)) * 8)
    async with followed(target, tracker) as (tap, client):
        for palette in palettes[1:]:
            read = tap.stats.bytes_read
            target.shown = dataclasses.replace(mode, palette=palette)
            await client.shows(target.truth)
            assert tracker == "compare" or tap.stats.bytes_read == read, "there is nothing new to read"


@pytest.mark.parametrize("tracker", TRACKERS)
@in_virtual_time
async def test_nonlinear_modes_are_shown_by_snapshots(tracker: str) -> None:
    target, loop = FaultyTarget(), asyncio.get_running_loop()
    async with followed(target, tracker) as (tap, client):
        read_before = tap.screen.mode
        for number in range(1, 4):
            target.picture = np.full((5 + number, 7), 0x1234 * number, np.uint32)
            target.shown = None
            await client.shows(target.truth)
            assert tap.screen.mode is None
            # A cursor that blinks is in no page.
            target.picture = target.picture ^ np.uint32(0xFFFFFF)
            began_s = loop.time()
            await client.shows(target.truth)
            assert loop.time() - began_s <= DEFAULT_TIMINGS.snapshot_idle_s + 0.1
            # While it draws, pictures are taken at the interval.
            target.picture = target.picture + np.uint32(1)
            target.write(0, b"text" * number)
            began_s = loop.time()
            await client.shows(target.truth)
            assert loop.time() - began_s <= 2 * DEFAULT_TIMINGS.interval_s + 0.05
            target.write(40 * PAGE_SIZE, b"something else")
            target.shown = XR24
            await client.shows(target.truth)
            assert tap.screen.mode == read_before, "the same mode as before, and read in full all the same"


@pytest.mark.parametrize("tracker", TRACKERS)
@in_virtual_time
async def test_tap_can_start_in_a_nonlinear_mode(tracker: str) -> None:
    target = FaultyTarget(None)
    async with followed(target, tracker) as (_, client):
        target.shown = XR24
        target.put(5, 5, 0x445566)
        await client.shows(target.truth)


@in_virtual_time
async def test_announced_mode_is_read_at_once() -> None:
    target, loop = FaultyTarget(), asyncio.get_running_loop()
    async with followed(target) as (_, client):
        for number in range(1, 8):
            await asyncio.sleep(DEFAULT_TIMINGS.idle_after_s + 3 + number * 0.13)
            target.shown = dataclasses.replace(XR24, width=number)
            began_s = loop.time()
            target.activity.notify()
            await client.shows(target.truth)
            assert loop.time() - began_s <= DEFAULT_TIMINGS.interval_s


@in_virtual_time
async def test_announcement_during_a_mode_read_is_not_forgotten() -> None:
    target, loop = FaultyTarget(), asyncio.get_running_loop()
    async with followed(target) as (_, client):
        await asyncio.sleep(DEFAULT_TIMINGS.idle_after_s + 3)
        target.mode_requested.clear()
        target.answering.clear()
        await target.mode_requested.wait()
        reads = target.modes_read
        target.shown = dataclasses.replace(XR24, width=50)
        target.activity.notify()
        began_s = loop.time()
        target.answering.set()
        await client.shows(target.truth)
        assert target.modes_read - reads == 2, "the answer under way was out of date"
        assert loop.time() - began_s <= 2 * DEFAULT_TIMINGS.interval_s
