"""The tap, over a target and trackers that fail on demand, in a time that jumps."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import logging
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from typing import cast

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from faulty import PAGES, XR24, Fault, FaultyTarget, SoftLog
from model_client import ModelClient
from virtual_time import in_virtual_time, pass_time
from vramtap import tap as tap_module
from vramtap.display.damage import Damage
from vramtap.display.mode import Mode, PixelFormat
from vramtap.display.region import Rect
from vramtap.errors import KernelError, TargetGone, UsageError, VramtapError
from vramtap.memory.extent import Extent
from vramtap.pages import PAGE_SIZE
from vramtap.tap import IDLE_AFTER_S, INTERVAL_S, MAX_DUTY, MODE_IDLE_S, RETRY_S, SNAPSHOT_IDLE_S, Tap
from vramtap.trackers.choose import Choice
from vramtap.trackers.compare import CompareTracker
from vramtap.trackers.contract import Tracker

TRACKERS = ("softlog", "compare")


@contextlib.asynccontextmanager
async def tapped(
    target: FaultyTarget, tracker: str = "softlog", on_collect: Callable[[], None] = lambda: None
) -> AsyncIterator[tuple[Tap, Tracker]]:
    """A tap of this target with this tracker; everything is let go of at the end."""
    made: Tracker = SoftLog(target, on_collect) if tracker == "softlog" else CompareTracker()

    def choose(name: str, extent: Extent, *, allow_filtered: bool) -> Choice:
        made.arm(extent)
        return Choice(made, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tap_module, "choose", choose)
        async with Tap(target) as tap:
            yield tap, made
    assert target.attached == target.released == 1


@contextlib.asynccontextmanager
async def followed(target: FaultyTarget, tracker: str = "softlog") -> AsyncIterator[tuple[Tap, ModelClient]]:
    async with tapped(target, tracker) as (tap, _), ModelClient(tap) as client:
        await client.shows(target.truth)
        yield tap, client


@pytest.fixture(autouse=True)
def quiet_log(caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest) -> Iterator[None]:
    """No defect is met on the way, but where a test brings one in."""
    caplog.set_level(logging.INFO, "vramtap")
    yield
    gc.collect()
    loud = [r.getMessage() for r in caplog.get_records("call") if r.levelno >= logging.ERROR]
    assert bool(loud) == ("defect" in request.node.name), loud


# When it looks


@pytest.mark.parametrize("tracker", TRACKERS)
@in_virtual_time
async def test_nothing_is_done_while_nobody_waits(tracker: str) -> None:
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
            assert loop.time() - began_s <= INTERVAL_S + 0.01


@in_virtual_time
async def test_an_idle_tap_asks_only_for_the_geometry() -> None:
    target, loop = FaultyTarget(), asyncio.get_running_loop()
    async with tapped(target) as (tap, made), ModelClient(tap) as client:
        assert isinstance(made, SoftLog)
        await asyncio.sleep(IDLE_AFTER_S + 1)
        assert made.watching
        polls, modes, read = tap.stats.polls, target.modes_read, target.extent.space.bytes_read
        await asyncio.sleep(60)
        assert tap.stats.polls == polls
        assert target.extent.space.bytes_read == read
        assert 60 / MODE_IDLE_S - 2 <= target.modes_read - modes <= 60 / MODE_IDLE_S + 1
        began_s = loop.time()
        target.put(9, 9, 0x777777)
        await client.shows(target.truth)
        assert loop.time() - began_s < INTERVAL_S, "it was woken, not asked"
        assert not made.watching


@in_virtual_time
async def test_a_tracker_that_cannot_wake_is_asked_at_the_interval() -> None:
    target = FaultyTarget()
    async with followed(target, "compare") as (tap, _):
        await asyncio.sleep(10)
        polls = tap.stats.polls
        await asyncio.sleep(10)
        assert 10 / INTERVAL_S * 0.9 < tap.stats.polls - polls < 10 / INTERVAL_S * 1.1


@pytest.mark.parametrize("dirty", [True, False])
@in_virtual_time
async def test_looking_takes_no_more_than_its_share(dirty: bool) -> None:
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
        assert (tap.stats.polls - polls) * takes_s <= 60 * MAX_DUTY * 1.1
        assert tap.stats.polls - polls > 10


@in_virtual_time
async def test_a_viewer_that_stops_asking_stops_the_looking() -> None:
    target = FaultyTarget()
    async with tapped(target) as (tap, made):
        assert isinstance(made, SoftLog)
        with tap.viewer("first") as first, tap.viewer("second"):
            assert tap.viewers == 2
            first.pending.forget()
            waiting = asyncio.create_task(first.changed())
            await asyncio.sleep(IDLE_AFTER_S + 5)
            assert made.watching
            waiting.cancel()
            await asyncio.wait([waiting])
            assert not made.watching
        assert tap.viewers == 0


# The geometry


@pytest.mark.parametrize("tracker", TRACKERS)
@in_virtual_time
async def test_a_flip_that_writes_nothing_is_seen(tracker: str) -> None:
    target, loop = FaultyTarget(), asyncio.get_running_loop()
    other = dataclasses.replace(XR24, offset_bytes=20 * PAGE_SIZE + 12)
    target.write(other.offset_bytes, bytes(range(256)) * 40)
    async with followed(target, tracker) as (_, client):
        for mode in (other, XR24, other):
            await asyncio.sleep(5)
            began_s = loop.time()
            target.shown = mode
            await client.shows(target.truth)
            assert loop.time() - began_s <= MODE_IDLE_S + INTERVAL_S + 0.1


@pytest.mark.parametrize("tracker", TRACKERS)
@in_virtual_time
async def test_drawing_in_the_hidden_page_and_flipping(tracker: str) -> None:
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
async def test_a_palette_changes_without_any_write(tracker: str) -> None:
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
async def test_without_a_framebuffer_pictures_are_taken(tracker: str) -> None:
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
            assert loop.time() - began_s <= SNAPSHOT_IDLE_S + 0.1
            # While it draws, pictures are taken at the interval.
            target.picture = target.picture + np.uint32(1)
            target.write(0, b"text" * number)
            began_s = loop.time()
            await client.shows(target.truth)
            assert loop.time() - began_s <= 2 * INTERVAL_S + 0.05
            target.write(40 * PAGE_SIZE, b"something else")
            target.shown = XR24
            await client.shows(target.truth)
            assert tap.screen.mode == read_before, "the same mode as before, and read in full all the same"


@pytest.mark.parametrize("tracker", TRACKERS)
@in_virtual_time
async def test_it_may_begin_without_a_framebuffer(tracker: str) -> None:
    target = FaultyTarget(None)
    async with followed(target, tracker) as (_, client):
        target.shown = XR24
        target.put(5, 5, 0x445566)
        await client.shows(target.truth)


@in_virtual_time
async def test_a_nudge_is_answered_at_once() -> None:
    target, loop = FaultyTarget(), asyncio.get_running_loop()
    async with followed(target) as (_, client):
        for number in range(1, 8):
            await asyncio.sleep(IDLE_AFTER_S + 3 + number * 0.13)
            target.shown = dataclasses.replace(XR24, width=number)
            began_s = loop.time()
            target.on_activity()
            await client.shows(target.truth)
            assert loop.time() - began_s <= INTERVAL_S


@in_virtual_time
async def test_a_nudge_while_the_geometry_is_asked_for_is_not_forgotten() -> None:
    target, loop = FaultyTarget(), asyncio.get_running_loop()
    async with followed(target) as (_, client):
        await asyncio.sleep(IDLE_AFTER_S + 3)
        target.asked.clear()
        target.answering.clear()
        await target.asked.wait()
        asked = target.modes_read
        target.shown = dataclasses.replace(XR24, width=50)
        target.on_activity()
        began_s = loop.time()
        target.answering.set()
        await client.shows(target.truth)
        assert target.modes_read - asked == 2, "the answer on its way was out of date"
        assert loop.time() - began_s <= 2 * INTERVAL_S


# What fails is done again


@pytest.mark.parametrize("tracker", TRACKERS)
@pytest.mark.parametrize("fault", [Fault.READ, Fault.COLLECT, Fault.MODE, Fault.MODE_LATE])
@in_virtual_time
async def test_what_fails_is_done_again(fault: Fault, tracker: str, caplog: pytest.LogCaptureFixture) -> None:
    if (fault, tracker) == (Fault.COLLECT, "compare"):
        return  # its collect fails where its reading does
    target, loop = FaultyTarget(), asyncio.get_running_loop()
    async with followed(target, tracker) as (tap, client):
        for number in range(1, 5):
            await asyncio.sleep(0.7 * number)
            target.faults.inject(fault, 5)
            began_s = loop.time()
            for page in (0, 3, 5):
                target.write(page * PAGE_SIZE, bytes([number]) * 40)
            await target.faults.over.wait()
            await client.shows(target.truth)
            assert loop.time() - began_s <= 6 * RETRY_S + 5 * MODE_IDLE_S
        assert tap.closed is None
        if fault is not Fault.MODE_LATE:
            assert tap.stats.failures == 20
            said = [record for record in caplog.records if "trying again" in record.getMessage()]
            assert len(said) == 4, "once, not twenty times a second"


@pytest.mark.parametrize("tracker", TRACKERS)
@pytest.mark.parametrize("fault", [Fault.READ, Fault.MODE, Fault.SNAPSHOT])
@in_virtual_time
async def test_what_fails_in_the_middle_of_a_new_mode_is_done_again(fault: Fault, tracker: str) -> None:
    target, loop = FaultyTarget(), asyncio.get_running_loop()
    modes = (None, dataclasses.replace(XR24, offset_bytes=PAGE_SIZE + 8), XR24, None, XR24)
    async with followed(target, tracker) as (_, client):
        for number, mode in enumerate(modes):
            target.faults.inject(fault, 3)
            target.picture = np.full((9, 9 + number), number + 1, np.uint32)
            target.write(2 * PAGE_SIZE, bytes([number + 1]) * 100)
            target.shown = mode
            began_s = loop.time()
            await client.shows(target.truth)
            assert loop.time() - began_s <= MODE_IDLE_S + 3 * SNAPSHOT_IDLE_S + 4 * RETRY_S
            target.faults.repair()


@in_virtual_time
async def test_a_new_mode_that_could_not_be_read_is_read_soon() -> None:
    """Found by the poll of the geometry, with no write to come back to."""
    target, loop = FaultyTarget(), asyncio.get_running_loop()
    async with followed(target) as (_, client):
        await asyncio.sleep(IDLE_AFTER_S + 3)
        target.write(30 * PAGE_SIZE, b"hidden")
        await asyncio.sleep(IDLE_AFTER_S + 3)
        target.shown = dataclasses.replace(XR24, offset_bytes=30 * PAGE_SIZE)
        target.faults.inject(Fault.READ)
        await target.faults.over.wait()
        began_s = loop.time()
        await client.shows(target.truth)
        assert loop.time() - began_s <= 2 * RETRY_S


@pytest.mark.parametrize("fault", [Fault.COLLECT_DEFECT, Fault.MODE_DEFECT])
@in_virtual_time
async def test_a_defect_of_ours_ends_the_tap_and_is_logged(fault: Fault) -> None:
    target = FaultyTarget()
    async with followed(target) as (tap, client):
        target.faults.inject(fault)
        target.put(1, 1, 5)
        assert "internal error" in str(await client.ends())
        assert tap.closed == "internal error; see the log"
        with pytest.raises(TargetGone, match="internal error"):
            await tap.refresh()


# It ends


@in_virtual_time
async def test_the_end_is_told_to_everybody() -> None:
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
async def test_memory_that_is_gone_waits_for_the_targets_own_words(says: bool) -> None:
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
async def test_the_last_damage_comes_before_the_end() -> None:
    target = FaultyTarget()
    async with tapped(target) as (tap, _):
        damages = asyncio.create_task(_all(tap))
        await asyncio.sleep(1)
        target.put(1, 1, 5)
        await asyncio.sleep(INTERVAL_S)
        target.end("it exited")
        assert await damages == [Rect(1, 1, 1, 1)]


@in_virtual_time
async def test_closing_the_tap_ends_it_in_the_middle_of_a_look() -> None:
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
        assert made.disarmed == 1
        target.released -= 1  # leaving the block closes it once more
        made.arm(target.extent)


@pytest.mark.parametrize("fault", [Fault.READ, Fault.MODE, Fault.COLLECT])
@in_virtual_time
async def test_an_attach_that_fails_lets_go_of_everything(fault: Fault) -> None:
    target = FaultyTarget()
    target.faults.inject(fault)
    made: list[SoftLog] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tap_module, "choose", _maker(target, made))
        with pytest.raises(VramtapError):
            async with Tap(target):
                pass
    assert made[0].disarmed == 1
    assert target.attached == target.released == 1


def _maker(target: FaultyTarget, made: list[SoftLog]) -> Callable[..., Choice]:
    def choose(name: str, extent: Extent, *, allow_filtered: bool) -> Choice:
        made.append(SoftLog(target))
        made[-1].arm(extent)
        return Choice(made[-1], name)

    return choose


@pytest.mark.parametrize("times", [1, 2])
@in_virtual_time
async def test_an_attach_that_is_cancelled_lets_go_of_what_its_thread_arms_later(times: int) -> None:
    target = FaultyTarget()
    made: list[SoftLog] = []
    begun, may_go_on = threading.Event(), threading.Event()

    def slow(name: str, extent: Extent, *, allow_filtered: bool) -> Choice:
        begun.set()
        may_go_on.wait()
        return _maker(target, made)(name, extent, allow_filtered=allow_filtered)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tap_module, "choose", slow)
        attaching = asyncio.create_task(Tap(target).__aenter__())
        await asyncio.to_thread(begun.wait)
        for _ in range(times):
            attaching.cancel()
            await asyncio.sleep(0)
        if times > 1:
            assert attaching.cancelled(), "whoever insists does not wait for the thread"
        may_go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await attaching
        if working := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(working)
    assert made[0].disarmed == 1
    assert target.attached == target.released == 1


@in_virtual_time
async def test_a_tracker_that_does_not_exist_is_said() -> None:
    target = FaultyTarget()
    with pytest.raises(UsageError, match="no such tracker"):
        async with Tap(target, tracker="magic"):
            pass
    assert target.released == 1


# Looking when asked


@pytest.mark.parametrize("tracker", TRACKERS)
@in_virtual_time
async def test_refresh_shows_what_is_shown_at_the_call(tracker: str) -> None:
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
async def test_many_refreshes_at_once_look_one_after_the_other(watched: bool) -> None:
    """`FaultyTarget.mode` fails if it is asked twice at once."""
    target = FaultyTarget()

    async def draw_and_look(number: int) -> None:
        await asyncio.sleep(number * 0.0003)
        target.put(number, 1, number + 1)
        await tap.refresh()
        assert tap.screen.pixels[1, number] == number + 1

    async with tapped(target) as (tap, _), contextlib.AsyncExitStack() as stack:
        if watched:
            await stack.enter_async_context(ModelClient(tap))
        await asyncio.gather(*(draw_and_look(number) for number in range(30)))
        assert tap.closed is None


@in_virtual_time
async def test_refresh_says_what_went_wrong_and_loses_nothing() -> None:
    target = FaultyTarget()
    async with tapped(target) as (tap, _):
        target.put(8, 8, 0x999999)
        target.faults.inject(Fault.READ)
        with pytest.raises(KernelError, match="EFAULT"):
            await tap.refresh()
        await tap.refresh()
        np.testing.assert_array_equal(tap.screen.pixels, target.truth)


@in_virtual_time
async def test_a_viewer_that_comes_back_is_not_shown_an_old_screen() -> None:
    target = FaultyTarget()
    async with tapped(target) as (tap, _):
        viewer = tap.viewer("now and then")
        target.put(1, 2, 3)
        await asyncio.sleep(100)
        await viewer.changed()
        assert tap.screen.pixels[2, 1] == 3
        polls = tap.stats.polls
        await viewer.changed()
        assert tap.stats.polls == polls, "it has just been looked"


# Damage


@in_virtual_time
async def test_changes_are_exact_for_who_keeps_up_and_merged_for_who_does_not() -> None:
    target = FaultyTarget()
    async with tapped(target) as (tap, _):
        changes = cast(AsyncGenerator[Damage, None], tap.changes())
        first = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(1)
        target.put(10, 20, 0xFF)
        damage = await first
        assert damage.rects == (Rect(10, 20, 1, 1),)
        # Busy: two changes far apart, with the tap looking for somebody else meanwhile.
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
async def test_a_new_size_is_in_the_changes() -> None:
    target = FaultyTarget()
    async with tapped(target) as (tap, _):
        changes = cast(AsyncGenerator[Damage, None], tap.changes())
        first = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(1)
        target.shown = dataclasses.replace(XR24, width=70, height=40)
        damage = await first
        assert (damage.resized, damage.width, damage.height) == (True, 70, 40)
        assert damage.rects == (Rect(0, 0, 70, 40),)
        await changes.aclose()


# All of it, in any order

MODES = (
    XR24,
    dataclasses.replace(XR24, offset_bytes=20 * PAGE_SIZE),
    dataclasses.replace(XR24, offset_bytes=20 * PAGE_SIZE + 4, width=60),
    Mode(64, 32, 64, PixelFormat.C8, 10 * PAGE_SIZE, tuple(range(256))),
    Mode(64, 32, 64, PixelFormat.C8, 10 * PAGE_SIZE, tuple(0x10101 * level for level in range(256))),
    None,
)
STEPS = st.one_of(
    st.tuples(st.just("write"), st.integers(0, PAGES * PAGE_SIZE - 64), st.integers(1, 64)),
    st.tuples(st.just("put"), st.integers(0, 59), st.integers(0, 31)),
    st.tuples(st.just("mode"), st.sampled_from(MODES), st.booleans()),
    st.tuples(st.just("picture"), st.integers(1, 3), st.integers(1, 3)),
    st.tuples(
        st.just("fault"),
        st.sampled_from([Fault.READ, Fault.COLLECT, Fault.MODE, Fault.MODE_LATE, Fault.SNAPSHOT]),
        st.integers(1, 3),
    ),
    st.tuples(st.just("sleep"), st.sampled_from([0, 0.001, 0.01, 0.02, 0.1, 0.3, 1.2, 3.0]), st.just(0)),
    st.tuples(st.just("refresh"), st.booleans(), st.just(0)),
    st.tuples(st.just("come"), st.booleans(), st.just(0)),
    st.tuples(st.just("leave"), st.integers(0, 3), st.just(0)),
)


@settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(STEPS, max_size=40), tracker=st.sampled_from(TRACKERS))
def test_nothing_is_ever_lost(steps: list[tuple[str, object, object]], tracker: str) -> None:
    """Whatever happened: once it is over, every viewer that stayed shows what the target shows."""

    @in_virtual_time
    async def run() -> None:
        target = FaultyTarget()
        value = 0
        async with tapped(target, tracker) as (tap, _), contextlib.AsyncExitStack() as stack:
            clients: list[ModelClient] = []
            refreshing: list[asyncio.Task[None]] = []
            for what, first, second in steps:
                value = value % 255 + 1
                match what, first, second:
                    case "write", int(at), int(length):
                        target.write(at, bytes([value]) * length)
                    case "put", int(x), int(y) if target.shown is not None:
                        target.put(x, y, value)
                    case "mode", (Mode() | None) as mode, bool(nudge):
                        target.shown = mode
                        if nudge:
                            target.on_activity()
                    case "picture", int(height), int(width):
                        target.picture = np.full((height, width), value, np.uint32)
                    case "fault", Fault() as fault, int(times):
                        target.faults.inject(fault, times)
                    case "sleep", seconds, _ if isinstance(seconds, (int, float)):
                        await asyncio.sleep(seconds)
                    case "refresh", wait, _:
                        task = asyncio.create_task(_refresh(tap))
                        refreshing.append(task)
                        if wait:
                            await task
                    case "come", bool(moves), _ if len(clients) < 4:
                        clients.append(await stack.enter_async_context(ModelClient(tap, moves=moves)))
                    case "leave", int(number), _ if number < len(clients):
                        await clients.pop(number).__aexit__(None, None, None)
            target.faults.repair()
            for task in refreshing:
                await task
            for client in clients:
                await client.shows(target.truth)
            await tap.refresh()
            np.testing.assert_array_equal(tap.screen.pixels, target.truth)
            assert tap.closed is None

    run()


async def _refresh(tap: Tap) -> None:
    with contextlib.suppress(VramtapError):
        await tap.refresh()
