"""The tap, on a faulty target with plain Python trackers, in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading
from typing import TYPE_CHECKING, cast

import numpy as np
import pytest

from support.faulty import PAGES, XR24, Fault, FaultyTarget, SoftLog
from support.model_client import ModelClient
from support.tapped import TRACKERS, followed, tapped
from support.virtual_time import in_virtual_time, pass_time
from vramtap.display.region import Rect
from vramtap.errors import KernelError, TargetGone, UsageError, VramtapError
from vramtap.pages import PAGE_SIZE
from vramtap.tap.tap import Tap
from vramtap.tap.timings import DEFAULT_TIMINGS
from vramtap.trackers.choose import Choice, TrackerOptions

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from vramtap.display.damage import Damage
    from vramtap.memory.extent import Extent

pytestmark = pytest.mark.usefixtures("no_defect")


# When it scans


@pytest.mark.parametrize("tracker", TRACKERS)
@in_virtual_time
async def test_idle_viewer_causes_no_scan(tracker: str) -> None:
    target = FaultyTarget()
    target.put(3, 4, 0xABCDEF)
    async with tapped(target, tracker) as (tap, _):
        viewer = tap.viewer("idle")
        np.testing.assert_array_equal(tap.screen.pixels, target.truth)
        before = tap.stats.polls, target.modes_read, target.extent.space.bytes_read
        target.put(0, 0, 0x111111)
        await asyncio.sleep(1000)
        assert (tap.stats.polls, target.modes_read, target.extent.space.bytes_read) == before
        await viewer.changed()
        np.testing.assert_array_equal(tap.screen.pixels, target.truth)


@pytest.mark.parametrize("tracker", TRACKERS)
@in_virtual_time
async def test_a_write_is_shown_within_an_interval(tracker: str) -> None:
    target, loop = FaultyTarget(), asyncio.get_running_loop()
    async with followed(target, tracker) as (_, client):
        for number in range(50):
            await asyncio.sleep(number * 0.0031)
            began_s = loop.time()
            target.put(number, 7, number + 1)
            await client.shows(target.truth)
            assert loop.time() - began_s <= DEFAULT_TIMINGS.interval_s + 0.01


@in_virtual_time
async def test_idle_tap_reads_only_the_mode() -> None:
    target, loop = FaultyTarget(), asyncio.get_running_loop()
    async with tapped(target) as (tap, made), ModelClient(tap) as client:
        assert isinstance(made, SoftLog)
        await asyncio.sleep(DEFAULT_TIMINGS.idle_after_s + 1)
        assert made.watching
        polls, modes, read = tap.stats.polls, target.modes_read, target.extent.space.bytes_read
        await asyncio.sleep(60)
        assert tap.stats.polls == polls
        assert target.extent.space.bytes_read == read
        assert (
            60 / DEFAULT_TIMINGS.mode_idle_s - 2
            <= target.modes_read - modes
            <= 60 / DEFAULT_TIMINGS.mode_idle_s + 1
        )
        began_s = loop.time()
        target.put(9, 9, 0x777777)
        await client.shows(target.truth)
        assert loop.time() - began_s < DEFAULT_TIMINGS.interval_s, "a wake-up, not a poll, showed the write"
        assert not made.watching


@in_virtual_time
async def test_tracker_without_wake_up_is_polled_at_the_interval() -> None:
    target = FaultyTarget()
    async with followed(target, "compare") as (tap, _):
        await asyncio.sleep(10)
        polls = tap.stats.polls
        await asyncio.sleep(10)
        assert (
            10 / DEFAULT_TIMINGS.interval_s * 0.9
            < tap.stats.polls - polls
            < 10 / DEFAULT_TIMINGS.interval_s * 1.1
        )


@pytest.mark.parametrize("dirty", [True, False])
@in_virtual_time
async def test_scans_take_at_most_the_duty_share(dirty: bool) -> None:
    target = FaultyTarget()
    takes_s = 0.3

    def collecting() -> None:
        pass_time(takes_s)
        if dirty:
            target.put(1, 1, int(asyncio.get_running_loop().time() * 1000) & 0xFFFFFF)

    async with tapped(target, on_collect=collecting) as (tap, made), ModelClient(tap):
        # As slow as a comparison of everything, but of a tracker that could wake: it must not get to.
        made.wake = lambda callback: None  # type: ignore[method-assign]
        polls = tap.stats.polls
        await asyncio.sleep(60)
        assert (tap.stats.polls - polls) * takes_s <= 60 * DEFAULT_TIMINGS.max_duty * 1.1
        assert tap.stats.polls - polls > 10


@in_virtual_time
async def test_scans_stop_when_the_viewer_stops_waiting() -> None:
    target = FaultyTarget()
    async with tapped(target) as (tap, made):
        assert isinstance(made, SoftLog)
        with tap.viewer("first") as first, tap.viewer("second"):
            assert tap.viewers == 2
            first.backlog.clear()
            waiting = asyncio.create_task(first.changed())
            await asyncio.sleep(DEFAULT_TIMINGS.idle_after_s + 5)
            assert made.watching
            waiting.cancel()
            await asyncio.wait([waiting])
            assert not made.watching
        assert tap.viewers == 0


# It ends


@in_virtual_time
async def test_every_viewer_learns_why_the_target_ended() -> None:
    target = FaultyTarget()
    async with followed(target) as (tap, client):
        damages = asyncio.create_task(_all(tap))
        ended = asyncio.create_task(tap.ended())
        await asyncio.sleep(1)
        target.end("it fell over")
        assert "it fell over" in str(await client.ends())
        assert await ended == tap.closed == "it fell over"
        assert await damages == []
        for call in (tap.refresh, tap.viewer("late").changed):
            with pytest.raises(TargetGone, match="tap faulty:: it fell over"):
                await call()
        polls = tap.stats.polls
        await asyncio.sleep(10)
        assert tap.stats.polls == polls


async def _all(tap: Tap) -> list[Rect]:
    return [rect async for damage in tap.changes() for rect in damage.rects]


@pytest.mark.parametrize("says", [True, False])
@in_virtual_time
async def test_unreadable_memory_waits_for_the_targets_end_reason(says: bool) -> None:
    target = FaultyTarget()
    async with followed(target) as (tap, client):
        target.faults.inject(Fault.READ_GONE)
        target.put(1, 1, 5)
        await asyncio.sleep(0.1)
        assert tap.closed is None
        if says:
            target.end("it exited")
        await client.ends()
        assert tap.closed == ("it exited" if says else "read faulty: no such process")


@in_virtual_time
async def test_last_damage_precedes_the_end() -> None:
    target = FaultyTarget()
    async with tapped(target) as (tap, _):
        damages = asyncio.create_task(_all(tap))
        await asyncio.sleep(1)
        target.put(1, 1, 5)
        await asyncio.sleep(DEFAULT_TIMINGS.interval_s)
        target.end("it exited")
        assert await damages == [Rect(1, 1, 1, 1)]


@in_virtual_time
async def test_closing_the_tap_cancels_a_scan() -> None:
    target = FaultyTarget()
    async with tapped(target) as (tap, made):
        client = ModelClient(tap)
        async with client:
            target.answering.clear()
            target.put(1, 1, 1)
            await asyncio.sleep(5)
            refreshing = asyncio.create_task(tap.refresh())
            await asyncio.sleep(5)
            await tap.__aexit__(None, None, None)
            assert str(await client.ends()).endswith("the tap was closed")
            with pytest.raises(TargetGone, match="the tap was closed"):
                await refreshing
        assert isinstance(made, SoftLog)
        assert made.stops == 1
        target.released -= 1  # leaving the block closes it once more
        made.start(target.extent)


@pytest.mark.parametrize("fault", [Fault.READ, Fault.MODE, Fault.COLLECT])
@in_virtual_time
async def test_failed_attach_releases_target_and_tracker(fault: Fault) -> None:
    target = FaultyTarget()
    target.faults.inject(fault)
    made: list[SoftLog] = []
    with pytest.raises(VramtapError):
        async with Tap(target, choose=_maker(target, made)):
            pass
    assert made[0].stops == 1
    assert target.attached == target.released == 1


def _maker(target: FaultyTarget, made: list[SoftLog]) -> Callable[..., Choice]:
    def choose(name: str, extent: Extent, *, allow_filtered: bool, options: TrackerOptions | None) -> Choice:
        made.append(SoftLog(target))
        made[-1].start(extent)
        return Choice(made[-1], name)

    return choose


@pytest.mark.parametrize("times", [1, 2])
@in_virtual_time
async def test_cancelled_attach_stops_the_tracker_that_its_thread_starts(times: int) -> None:
    target = FaultyTarget()
    made: list[SoftLog] = []
    begun, may_go_on = threading.Event(), threading.Event()

    def slow(name: str, extent: Extent, *, allow_filtered: bool, options: TrackerOptions | None) -> Choice:
        begun.set()
        may_go_on.wait()
        return _maker(target, made)(name, extent, allow_filtered=allow_filtered, options=options)

    attaching = asyncio.create_task(Tap(target, choose=slow).__aenter__())
    await asyncio.to_thread(begun.wait)
    for _ in range(times):
        attaching.cancel()
        await asyncio.sleep(0)
    if times > 1:
        assert attaching.cancelled(), "a second cancellation does not wait for the thread"
    may_go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await attaching
    if working := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(working)
    assert made[0].stops == 1
    assert target.attached == target.released == 1


@in_virtual_time
async def test_unknown_tracker_is_a_usage_error() -> None:
    target = FaultyTarget()
    with pytest.raises(UsageError, match="no such tracker"):
        async with Tap(target, tracker="magic"):
            pass
    assert target.released == 1


# Scans on request


@pytest.mark.parametrize("tracker", TRACKERS)
@in_virtual_time
async def test_refresh_shows_the_target_as_at_the_call(tracker: str) -> None:
    target = FaultyTarget()
    target.write(0, bytes(range(251)) * (PAGES * PAGE_SIZE // 251))
    async with tapped(target, tracker) as (tap, _):
        for number in range(5):
            target.put(number, number, 0x10101)
            await tap.refresh()
            np.testing.assert_array_equal(tap.screen.pixels, target.truth)
            target.shown = dataclasses.replace(XR24, offset_bytes=number * PAGE_SIZE)
            await tap.refresh()
            np.testing.assert_array_equal(tap.screen.pixels, target.truth)
            target.shown = None
            await tap.refresh()
            np.testing.assert_array_equal(tap.screen.pixels, target.truth)
            target.shown = XR24


@pytest.mark.parametrize("watched", [True, False])
@in_virtual_time
async def test_concurrent_refreshes_scan_one_after_the_other(watched: bool) -> None:
    """`FaultyTarget.mode` fails when two calls overlap."""
    target = FaultyTarget()

    async def draw_and_refresh(number: int) -> None:
        await asyncio.sleep(number * 0.0003)
        target.put(number, 1, number + 1)
        await tap.refresh()
        assert tap.screen.pixels[1, number] == number + 1

    async with tapped(target) as (tap, _), contextlib.AsyncExitStack() as stack:
        if watched:
            await stack.enter_async_context(ModelClient(tap))
        await asyncio.gather(*(draw_and_refresh(number) for number in range(30)))
        assert tap.closed is None


@in_virtual_time
async def test_failed_refresh_raises_and_loses_no_write() -> None:
    target = FaultyTarget()
    async with tapped(target) as (tap, _):
        target.put(8, 8, 0x999999)
        target.faults.inject(Fault.READ)
        with pytest.raises(KernelError, match="EFAULT"):
            await tap.refresh()
        await tap.refresh()
        np.testing.assert_array_equal(tap.screen.pixels, target.truth)


@in_virtual_time
async def test_returning_viewer_gets_a_fresh_screen() -> None:
    target = FaultyTarget()
    async with tapped(target) as (tap, _):
        viewer = tap.viewer("now and then")
        target.put(1, 2, 3)
        await asyncio.sleep(100)
        await viewer.changed()
        assert tap.screen.pixels[2, 1] == 3
        polls = tap.stats.polls
        await viewer.changed()
        assert tap.stats.polls == polls, "the screen is fresh"


# Damage


@in_virtual_time
async def test_changes_are_exact_for_a_fast_caller_and_merged_for_a_slow_one() -> None:
    target = FaultyTarget()
    async with tapped(target) as (tap, _):
        changes = cast("AsyncGenerator[Damage, None]", tap.changes())
        first = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(1)
        target.put(10, 20, 0xFF)
        damage = await first
        assert damage.rects == (Rect(10, 20, 1, 1),)
        # Busy: two changes far apart, while the tap scans for another viewer.
        async with ModelClient(tap) as client:
            for x, y in ((0, 0), (90, 50)):
                target.put(x, y, 0xEE)
                await client.shows(target.truth)
        damage = await anext(changes)
        assert all(
            any(rect.contains(Rect(x, y, 1, 1)) for rect in damage.rects) for x, y in ((0, 0), (90, 50))
        )
        assert damage.area <= 2 * 16 * 16
        assert not damage.resized
        await changes.aclose()
        assert tap.viewers == 0


@in_virtual_time
async def test_changes_report_a_new_size() -> None:
    target = FaultyTarget()
    async with tapped(target) as (tap, _):
        changes = cast("AsyncGenerator[Damage, None]", tap.changes())
        first = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(1)
        target.shown = dataclasses.replace(XR24, width=70, height=40)
        damage = await first
        assert (damage.resized, damage.width, damage.height) == (True, 70, 40)
        assert damage.rects == (Rect(0, 0, 70, 40),)
        await changes.aclose()
