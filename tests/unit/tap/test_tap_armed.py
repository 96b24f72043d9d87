"""The tap and a tracker that is armed: a descriptor to wait for, nothing else to do, and pages to learn."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pytest

from support.faulty import XR24, ArmedLog, Fault, FaultyTarget, SoftLog
from support.model_client import ModelClient
from support.tapped import followed, tapped
from support.virtual_time import in_virtual_time
from vramtap.pages import NO_PAGES, PAGE_SIZE, PageRuns
from vramtap.tap.timings import DEFAULT_TIMINGS

if TYPE_CHECKING:
    from vramtap.display.mode import Mode

pytestmark = pytest.mark.usefixtures("no_defect")

SETTLED_S = DEFAULT_TIMINGS.idle_after_s + 2 * DEFAULT_TIMINGS.mode_idle_s
"""After the last change: the tap waits for the tracker's word."""


class TimedTarget(FaultyTarget):
    """A target that records when its mode was read."""

    def __init__(self) -> None:
        super().__init__()
        self.read_s: list[float] = []

    async def mode(self) -> Mode | None:
        self.read_s.append(asyncio.get_running_loop().time())
        return await super().mode()


# The descriptor


@in_virtual_time
async def test_armed_tap_does_nothing_until_the_first_write() -> None:
    target, loop = FaultyTarget(), asyncio.get_running_loop()
    target.announces_mode = True
    async with tapped(target, "armed") as (tap, made), ModelClient(tap) as client:
        assert isinstance(made, ArmedLog)
        for number in range(1, 20):
            await asyncio.sleep(SETTLED_S)
            assert made.watching
            before = tap.stats.polls, target.modes_read, target.extent.space.bytes_read
            await asyncio.sleep(3600)
            assert (tap.stats.polls, target.modes_read, target.extent.space.bytes_read) == before
            began_s = loop.time()
            target.put(number, 9, number)
            await client.shows(target.truth)
            assert loop.time() - began_s < DEFAULT_TIMINGS.interval_s
            assert not made.watching


@in_virtual_time
async def test_write_between_scan_and_arming_is_reported_at_once() -> None:
    """The write falls between the last scan and the wait."""
    target, loop = FaultyTarget(), asyncio.get_running_loop()
    async with tapped(target, "armed") as (tap, made), ModelClient(tap) as client:
        assert isinstance(made, ArmedLog)
        wake = made.wake
        put_s: list[float] = []

        def write_first(callback: object) -> object:
            if not put_s:
                put_s.append(loop.time())
                target.put(1, 1, 0x123456)
            return wake(callback)  # type: ignore[arg-type]

        made.wake = write_first  # type: ignore[method-assign, assignment]
        await asyncio.sleep(SETTLED_S)
        assert put_s
        np.testing.assert_array_equal(client.pixels, target.truth)


@in_virtual_time
async def test_waker_is_cancelled_when_the_viewer_stops_waiting() -> None:
    target = FaultyTarget()
    async with tapped(target, "armed") as (tap, made):
        assert isinstance(made, ArmedLog)
        with tap.viewer("only") as viewer:
            viewer.backlog.clear()
            for _ in range(3):
                waiting = asyncio.create_task(viewer.changed())
                await asyncio.sleep(SETTLED_S)
                assert made.watching
                waiting.cancel()
                await asyncio.wait([waiting])
                assert not made.watching


@in_virtual_time
async def test_refresh_cancels_the_waker_first() -> None:
    target = FaultyTarget()
    async with tapped(target, "armed") as (tap, made), ModelClient(tap):
        assert isinstance(made, ArmedLog)
        for number in range(1, 4):
            await asyncio.sleep(SETTLED_S)
            assert made.watching
            target.put(number, 1, number)
            await tap.refresh()
            np.testing.assert_array_equal(tap.screen.pixels, target.truth)


@in_virtual_time
async def test_waker_is_cancelled_when_the_target_ends() -> None:
    target = FaultyTarget()
    async with followed(target, "armed") as (tap, client):
        await asyncio.sleep(SETTLED_S)
        target.end("it fell over")
        assert "it fell over" in str(await client.ends())
        assert tap.closed == "it fell over"
        made = tap._tracker
        assert isinstance(made, ArmedLog)
        assert not made.watching


@in_virtual_time
async def test_waker_is_cancelled_when_the_tap_is_closed() -> None:
    target = FaultyTarget()
    async with tapped(target, "armed") as (tap, made):
        assert isinstance(made, ArmedLog)
        async with ModelClient(tap) as client:
            await asyncio.sleep(SETTLED_S)
            assert made.watching
            await tap.__aexit__(None, None, None)
            await client.ends()
        assert not made.watching
        target.released -= 1  # leaving the block closes it once more


@pytest.mark.parametrize("fault", [Fault.MODE, Fault.MODE_LATE])
@in_virtual_time
async def test_waker_is_cancelled_when_the_mode_cannot_be_read(fault: Fault) -> None:
    target = FaultyTarget()
    async with followed(target, "armed") as (tap, client):
        await asyncio.sleep(SETTLED_S)
        target.faults.inject(fault, 3)
        await target.faults.over.wait()
        target.put(3, 3, 0xABC)
        await client.shows(target.truth)
        assert tap.closed is None


@in_virtual_time
async def test_flip_while_armed_is_read_and_the_tap_armed_again() -> None:
    target = FaultyTarget()
    other = dataclasses.replace(XR24, offset_bytes=20 * PAGE_SIZE)
    target.write(other.offset_bytes, bytes(range(256)) * 40)
    async with tapped(target, "armed") as (tap, made), ModelClient(tap) as client:
        assert isinstance(made, ArmedLog)
        for mode in (other, XR24, other):
            await asyncio.sleep(SETTLED_S)
            assert made.watching
            target.shown = mode
            target.activity.notify()
            await client.shows(target.truth)


# The mode


@in_virtual_time
async def test_armed_tap_reads_the_mode_at_doubling_intervals() -> None:
    target = TimedTarget()
    async with tapped(target, "armed") as (tap, made), ModelClient(tap) as client:
        assert isinstance(made, ArmedLog)
        for number in (1, 2):
            await asyncio.sleep(SETTLED_S)
            assert made.watching
            began = len(target.read_s)
            await asyncio.sleep(4 * DEFAULT_TIMINGS.mode_armed_s)
            gaps_s = np.diff(target.read_s[began - 1 :])
            doubling = [gap_s for gap_s in gaps_s if gap_s < DEFAULT_TIMINGS.mode_armed_s - 0.1]
            assert len(gaps_s) - len(doubling) >= 2, "it stays at the longest"
            assert doubling[-1] > DEFAULT_TIMINGS.mode_armed_s / 2
            np.testing.assert_allclose(np.array(doubling[1:]) / doubling[:-1], 2, rtol=0.01)
            assert doubling[0] <= 4 * DEFAULT_TIMINGS.mode_idle_s + 0.1, (
                "the first interval is that of an idle target"
            )
            np.testing.assert_allclose(gaps_s[len(doubling) :], DEFAULT_TIMINGS.mode_armed_s, rtol=0.01)
            target.put(number, 1, number)
            await client.shows(target.truth)


@in_virtual_time
async def test_unannounced_mode_of_an_armed_target_is_seen_late() -> None:
    target = FaultyTarget()
    async with followed(target, "armed") as (_, client):
        await asyncio.sleep(SETTLED_S + 10 * DEFAULT_TIMINGS.mode_armed_s)
        target.shown = dataclasses.replace(XR24, width=50)
        await client.shows(target.truth, timeout_s=DEFAULT_TIMINGS.mode_armed_s + 1)


@in_virtual_time
async def test_target_that_cannot_be_armed_is_polled() -> None:
    target = TimedTarget()
    async with tapped(target, "softlog") as (tap, _), ModelClient(tap):
        await asyncio.sleep(SETTLED_S)
        began = len(target.read_s)
        await asyncio.sleep(100)
        np.testing.assert_allclose(np.diff(target.read_s[began:]), DEFAULT_TIMINGS.mode_idle_s, atol=0.05)


@pytest.mark.parametrize("tracker", ["armed", "softlog"])
@in_virtual_time
async def test_announcing_target_is_not_asked_for_its_mode(tracker: str) -> None:
    target, loop = FaultyTarget(), asyncio.get_running_loop()
    target.announces_mode = True
    async with followed(target, tracker) as (_, client):
        await asyncio.sleep(SETTLED_S)
        reads = target.modes_read
        await asyncio.sleep(100_000)
        assert target.modes_read == reads
        target.shown = dataclasses.replace(XR24, width=50)
        target.activity.notify()
        began_s = loop.time()
        await client.shows(target.truth)
        assert loop.time() - began_s <= DEFAULT_TIMINGS.interval_s


@in_virtual_time
async def test_announcing_target_is_asked_once_after_it_drew() -> None:
    """The last thing a guest does may be a flip, and its word of it may be on its way."""
    target = FaultyTarget()
    target.announces_mode = True
    async with followed(target, "armed") as (_, client):
        await asyncio.sleep(SETTLED_S)
        reads = target.modes_read
        target.put(1, 1, 1)
        await client.shows(target.truth)
        await asyncio.sleep(3 * DEFAULT_TIMINGS.mode_busy_s)
        assert target.modes_read > reads
        reads = target.modes_read
        await asyncio.sleep(1000)
        assert target.modes_read == reads


# What is learned, and what counts as activity


@in_virtual_time
async def test_tracker_gets_feedback_about_changed_pages() -> None:
    target = FaultyTarget()
    async with followed(target) as (tap, client):
        made = tap._tracker
        assert isinstance(made, SoftLog)
        assert made.feedbacks[0] == PageRuns([(0, 6)]), "all that is shown was new"
        made.feedbacks.clear()
        target.put(3, 0, 0x42)
        target.put(90, 59, 0x42)
        target.write(40 * PAGE_SIZE, b"not shown")
        await client.shows(target.truth)
        assert made.feedbacks == [PageRuns.from_pages([0, 59 * XR24.stride_bytes // PAGE_SIZE])]
        made.feedbacks.clear()
        target.put(3, 0, 0x42)
        await asyncio.sleep(1)
        assert made.feedbacks == [NO_PAGES], "written, but as before"


@in_virtual_time
async def test_tracker_without_feedback_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SoftLog, "wants_feedback", False)
    target = FaultyTarget()
    async with followed(target) as (tap, client):
        target.put(3, 0, 0x42)
        await client.shows(target.truth)
        made = tap._tracker
        assert isinstance(made, SoftLog)
        assert made.feedbacks == []


@in_virtual_time
async def test_unread_pages_are_restored_without_feedback() -> None:
    target = FaultyTarget()
    async with followed(target) as (tap, client):
        made = tap._tracker
        assert isinstance(made, SoftLog)
        made.feedbacks.clear()
        target.faults.inject(Fault.READ)
        target.put(3, 0, 0x42)
        await client.shows(target.truth)
        assert made.feedbacks == [PageRuns([(0, 1)])]


@in_virtual_time
async def test_writes_that_change_nothing_do_not_delay_arming() -> None:
    target = FaultyTarget()
    async with tapped(target, "armed") as (tap, made), ModelClient(tap):
        assert isinstance(made, ArmedLog)
        watched = []
        for _ in range(40):
            target.put(1, 1, 0)
            await asyncio.sleep(DEFAULT_TIMINGS.idle_after_s / 4)
            watched.append(made.watching)
        assert any(watched)
        watched.clear()
        for number in range(1, 40):
            target.put(1, 1, number)
            await asyncio.sleep(DEFAULT_TIMINGS.idle_after_s / 4)
            watched.append(made.watching)
        assert not any(watched)
