"""The tap and what fails: it is done again, and nothing is lost, in whatever order it all happens."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.faulty import PAGES, XR24, Fault, FaultyTarget
from support.model_client import ModelClient
from support.tapped import TRACKERS, followed, tapped
from support.virtual_time import in_virtual_time
from vramtap.display.mode import Mode, PixelFormat
from vramtap.errors import TargetGone, VramtapError
from vramtap.pages import PAGE_SIZE
from vramtap.tap.timings import DEFAULT_TIMINGS

if TYPE_CHECKING:
    from vramtap.tap.tap import Tap

pytestmark = pytest.mark.usefixtures("no_defect")


@pytest.mark.parametrize(
    ("fault", "tracker"),
    [
        *((fault, tracker) for fault in (Fault.READ, Fault.MODE, Fault.MODE_LATE) for tracker in TRACKERS),
        (Fault.COLLECT, "softlog"),  # a comparison fails where its reading does
    ],
)
@in_virtual_time
async def test_failed_step_is_repeated_and_no_write_is_lost(
    fault: Fault, tracker: str, caplog: pytest.LogCaptureFixture
) -> None:
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
            assert loop.time() - began_s <= 6 * DEFAULT_TIMINGS.retry_s + 5 * DEFAULT_TIMINGS.mode_idle_s
        assert tap.closed is None
        if fault is not Fault.MODE_LATE:
            assert tap.stats.failures == 20
            said = [record for record in caplog.records if "trying again" in record.getMessage()]
            assert len(said) == 4, "once, not twenty times a second"


@pytest.mark.parametrize("tracker", TRACKERS)
@pytest.mark.parametrize("fault", [Fault.READ, Fault.MODE, Fault.SNAPSHOT])
@in_virtual_time
async def test_step_that_fails_during_a_mode_change_is_repeated(fault: Fault, tracker: str) -> None:
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
            assert (
                loop.time() - began_s
                <= DEFAULT_TIMINGS.mode_idle_s
                + 3 * DEFAULT_TIMINGS.snapshot_idle_s
                + 4 * DEFAULT_TIMINGS.retry_s
            )
            target.faults.repair()


@in_virtual_time
async def test_mode_that_could_not_be_read_is_read_again_soon() -> None:
    """The mode clock finds the change; no write follows it."""
    target, loop = FaultyTarget(), asyncio.get_running_loop()
    async with followed(target) as (_, client):
        await asyncio.sleep(DEFAULT_TIMINGS.idle_after_s + 3)
        target.write(30 * PAGE_SIZE, b"hidden")
        await asyncio.sleep(DEFAULT_TIMINGS.idle_after_s + 3)
        target.shown = dataclasses.replace(XR24, offset_bytes=30 * PAGE_SIZE)
        target.faults.inject(Fault.READ)
        await target.faults.over.wait()
        began_s = loop.time()
        await client.shows(target.truth)
        assert loop.time() - began_s <= 2 * DEFAULT_TIMINGS.retry_s


@pytest.mark.parametrize("fault", [Fault.COLLECT_DEFECT, Fault.MODE_DEFECT])
@in_virtual_time
async def test_internal_defect_ends_the_tap_and_is_logged(fault: Fault) -> None:
    target = FaultyTarget()
    async with followed(target) as (tap, client):
        target.faults.inject(fault)
        target.put(1, 1, 5)
        assert "internal error" in str(await client.ends())
        assert tap.closed == "internal error; see the log"
        with pytest.raises(TargetGone, match="internal error"):
            await tap.refresh()


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


class _Play:
    """Random steps, played against a target and its tap."""

    def __init__(self, target: FaultyTarget, tap: Tap, stack: contextlib.AsyncExitStack) -> None:
        self._target = target
        self._tap = tap
        self._stack = stack
        self._value = 0
        self.clients: list[ModelClient] = []
        self.refreshing: list[asyncio.Task[None]] = []

    async def step(self, what: object, first: object, second: object) -> None:
        """Play one step, a change of the target or an act of a viewer."""
        self._value = self._value % 255 + 1
        if not self._change(what, first, second):
            await self._act(what, first)

    def _change(self, what: object, first: object, second: object) -> bool:
        """Change the target; returns False if the step is not a change."""
        target = self._target
        match what, first, second:
            case "write", int(at), int(length):
                target.write(at, bytes([self._value]) * length)
            case "put", int(x), int(y):
                if target.shown is not None:
                    target.put(x, y, self._value)
            case "mode", (Mode() | None) as mode, bool(announced):
                target.shown = mode
                if announced or target.announces_mode:
                    target.activity.notify()
            case "picture", int(height), int(width):
                target.picture = np.full((height, width), self._value, np.uint32)
            case "fault", Fault() as fault, int(times):
                target.faults.inject(fault, times)
            case _:
                return False
        return True

    async def _act(self, what: object, first: object) -> None:
        match what, first:
            case "sleep", (int() | float()) as seconds:
                await asyncio.sleep(seconds)
            case "refresh", wait:
                task = asyncio.create_task(_refresh(self._tap))
                self.refreshing.append(task)
                if wait:
                    await task
            case "come", bool(moves) if len(self.clients) < 4:
                client = ModelClient(self._tap, moves=moves)
                self.clients.append(await self._stack.enter_async_context(client))
            case "leave", int(number) if number < len(self.clients):
                await self.clients.pop(number).__aexit__(None, None, None)


@settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(STEPS, max_size=40), tracker=st.sampled_from([*TRACKERS, "armed"]))
def test_random_events_and_faults_lose_no_write(
    steps: list[tuple[str, object, object]], tracker: str
) -> None:
    """Once the faults are over, every viewer that stayed shows what the target shows."""

    @in_virtual_time
    async def run() -> None:
        target = FaultyTarget()
        # An armed tap reads a mode that is not announced too late for this test.
        target.announces_mode = tracker == "armed"
        async with tapped(target, tracker) as (tap, _), contextlib.AsyncExitStack() as stack:
            play = _Play(target, tap, stack)
            for what, first, second in steps:
                await play.step(what, first, second)
            target.faults.repair()
            for task in play.refreshing:
                await task
            for client in play.clients:
                await client.shows(target.truth)
            await tap.refresh()
            np.testing.assert_array_equal(tap.screen.pixels, target.truth)
            assert tap.closed is None

    run()


async def _refresh(tap: Tap) -> None:
    with contextlib.suppress(VramtapError):
        await tap.refresh()
