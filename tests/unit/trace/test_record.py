"""Recording a scripted target in virtual time: what is kept, and what ends the recording."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import json
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest

from support.faulty import PAGES, XR24, Fault, FaultyTarget, SoftLog
from support.virtual_time import in_virtual_time
from vramtap.errors import KernelError, Refused, TargetGone, VramtapError
from vramtap.memory.own import extent_of
from vramtap.pages import NO_PAGES, PAGE_SIZE, PageRuns
from vramtap.policy.costs import REFERENCE
from vramtap.tap.timings import DEFAULT_TIMINGS
from vramtap.trace import record as module
from vramtap.trace.record import STOPPED, intervals_in, record
from vramtap.trace.recording import Follower, Recording, costs_of
from vramtap.trace.trace import Trace, TraceBuilder
from vramtap.trackers.base import AllDirty, Reason
from vramtap.trackers.userfault.log import LogTracker

if TYPE_CHECKING:
    from collections.abc import Callable

    from vramtap.memory.extent import Extent

HZ = 50
WINDOW = XR24.window[1]
MOVED = dataclasses.replace(XR24, offset_bytes=8 * PAGE_SIZE)
LARGER = dataclasses.replace(XR24, height=120)


def now_ns() -> int:
    return round(asyncio.get_running_loop().time() * 1e9)


def log_of(
    monkeypatch: pytest.MonkeyPatch, target: FaultyTarget, on_collect: Callable[[], None] = lambda: None
) -> SoftLog:
    """Give the recorder a log that the target itself fills."""
    made = SoftLog(target, on_collect)
    monkeypatch.setattr(module, "LogTracker", lambda allow_filtered: made)
    return made


def during(recording: Recording, acts: dict[int, Callable[[], object]]) -> Callable[[Recording], None]:
    """Return a progress callback that runs each act after its number of intervals."""

    def progress(same: Recording) -> None:
        assert same is recording
        acts.pop(same.intervals, lambda: None)()

    return progress


async def recorded(
    target: FaultyTarget, acts: dict[int, Callable[[], object]] | None = None, seconds: float = 1.0
) -> Trace:
    """Record for one second; run acts after their numbers of intervals."""
    recording = Recording("faulty:", HZ, "host", {"name": "test"})
    await record(
        target, recording, hz=HZ, seconds=seconds, progress=during(recording, acts or {}), now_ns=now_ns
    )
    assert (target.attached, target.released) == (1, 1)
    return recording.trace()


@in_virtual_time
async def test_each_interval_keeps_what_was_written_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    target = FaultyTarget()
    log = log_of(monkeypatch, target)
    target.put(0, 0, 1)  # before the recording, so not a part of it

    def both() -> None:
        target.put(0, 0, 2)
        target.put(0, 50, 3)

    trace = await recorded(target, {3: both, 7: lambda: target.put(99, 59, 4)})
    assert trace.pages == WINDOW
    assert trace.intervals == HZ
    page = 50 * 400 // PAGE_SIZE
    expected = {3: PageRuns.from_pages([0, page]), 7: PageRuns([(WINDOW - 1, WINDOW)])}
    for interval in range(HZ):
        assert trace.written(interval) == expected.get(interval, NO_PAGES)
    assert trace.meta["ended"] == "after 1 s"
    assert trace.meta["mode"] == str(XR24)
    assert (trace.meta["name"], trace.meta["target"], trace.meta["clock"]) == ("test", "faulty:", "host")
    assert "all_dirty" not in trace.meta
    assert "skipped" not in trace.meta
    assert log.stops == 1


@in_virtual_time
async def test_intervals_do_not_drift(monkeypatch: pytest.MonkeyPatch) -> None:
    target = FaultyTarget()
    log_of(monkeypatch, target)
    trace = await recorded(target, seconds=100)
    assert trace.intervals == 100 * HZ
    for interval in (0, 1, 999, trace.intervals - 1):
        assert trace.at_ns[interval] == pytest.approx((interval + 1) * 1e9 / HZ, abs=2e6)


@in_virtual_time
async def test_late_intervals_are_skipped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    target, loop = FaultyTarget(), asyncio.get_running_loop()
    log_of(monkeypatch, target)
    target.answering.clear()
    # The first read of the mode takes 0.2 s, and one in the middle takes 0.5 s.
    loop.call_later(0.2, target.answering.set)

    def stall() -> None:
        target.answering.clear()
        target.put(0, 0, 1)
        loop.call_later(0.5, target.answering.set)

    trace = await recorded(target, {10: stall})
    skipped = int(trace.meta["skipped"])
    assert 15 <= skipped <= 25
    assert trace.intervals == HZ - skipped
    assert trace.duration_s == pytest.approx(1.0, abs=0.01)


@in_virtual_time
async def test_all_dirty_is_kept_as_all_pages_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    target = FaultyTarget()
    log = log_of(monkeypatch, target)
    trace = await recorded(target, {5: lambda: setattr(log, "_first", True)})
    assert trace.written(5) == PageRuns.full(WINDOW)
    assert trace.written(4) == trace.written(6) == NO_PAGES
    assert trace.meta["all_dirty"] == "first 1"


@in_virtual_time
async def test_page_flip_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    target = FaultyTarget()
    log_of(monkeypatch, target)

    def flip() -> None:
        target.shown = MOVED
        target.activity.notify()

    trace = await recorded(target, {5: flip, 9: lambda: target.put(0, 0, 1)})
    assert trace.intervals == HZ
    assert trace.written(5) == PageRuns.full(WINDOW)
    assert trace.written(9) == PageRuns([(0, 1)])
    assert trace.meta["moves"] == "1"


@in_virtual_time
async def test_mode_with_the_same_number_of_pages_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    target = FaultyTarget()
    log_of(monkeypatch, target)
    trace = await recorded(
        target, {5: lambda: setattr(target, "shown", dataclasses.replace(XR24, width=99))}, seconds=3
    )
    assert trace.intervals == 3 * HZ
    assert len(trace.runs) == 0


@pytest.mark.parametrize(("mode", "said"), [(LARGER, str(LARGER)), (None, "a mode that is not linear")])
@in_virtual_time
async def test_mode_with_another_number_of_pages_ends_the_recording(
    monkeypatch: pytest.MonkeyPatch, mode: object, said: str
) -> None:
    target = FaultyTarget()
    log_of(monkeypatch, target)

    def change() -> None:
        target.put(0, 0, 1)
        target.shown = mode  # type: ignore[assignment]  # a Mode or None, as parametrised
        target.activity.notify()

    trace = await recorded(target, {5: change})
    assert trace.intervals == 6
    assert trace.written(5) == PageRuns([(0, 1)])
    assert trace.meta["ended"] == f"the mode changed to {said}"


@pytest.mark.parametrize(
    ("writes", "within_s"), [(True, DEFAULT_TIMINGS.mode_busy_s), (False, DEFAULT_TIMINGS.mode_idle_s)]
)
@in_virtual_time
async def test_new_mode_without_an_event_is_found(
    monkeypatch: pytest.MonkeyPatch, writes: bool, within_s: float
) -> None:
    target = FaultyTarget()
    log_of(monkeypatch, target)

    def change() -> None:
        target.shown = LARGER
        if writes:
            target.put(0, 0, 1)

    trace = await recorded(target, {5: change}, seconds=5)
    assert 0 < trace.duration_s - 5 / HZ <= within_s + 2 / HZ


@in_virtual_time
async def test_mode_read_that_times_out_keeps_the_last_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    target = FaultyTarget()
    log_of(monkeypatch, target)
    trace = await recorded(target, {2: lambda: target.faults.inject(Fault.MODE_LATE)}, seconds=3)
    assert target.faults.over.is_set()
    assert trace.intervals == 3 * HZ


@in_virtual_time
async def test_recording_begins_with_the_first_linear_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    target = FaultyTarget(None)
    log_of(monkeypatch, target)
    asyncio.get_running_loop().call_later(20, setattr, target, "shown", XR24)
    trace = await recorded(target)
    assert trace.intervals == HZ


@in_virtual_time
async def test_target_that_ends_without_a_linear_mode_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    target = FaultyTarget(None)
    log_of(monkeypatch, target)
    asyncio.get_running_loop().call_later(20, target.end, "it crashed")
    with pytest.raises(TargetGone, match="linear mode"):
        await recorded(target)


@in_virtual_time
async def test_end_of_the_target_ends_the_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    target = FaultyTarget()
    log_of(monkeypatch, target)
    trace = await recorded(target, {5: lambda: target.end("it crashed")})
    assert trace.intervals == 5
    assert trace.meta["ended"] == "it crashed"


@in_virtual_time
async def test_end_reason_of_unreadable_memory_is_the_targets_own(monkeypatch: pytest.MonkeyPatch) -> None:
    target, loop = FaultyTarget(), asyncio.get_running_loop()

    def fail() -> None:
        if log.collects > 5:
            loop.call_later(0.3, target.end, "it crashed")
            raise TargetGone("PAGEMAP_SCAN", "pid 7", "no such process")

    log = log_of(monkeypatch, target, fail)
    trace = await recorded(target)
    assert trace.intervals == 4
    assert trace.meta["ended"] == "it crashed"


@in_virtual_time
async def test_failed_collect_is_an_error_and_the_intervals_remain(monkeypatch: pytest.MonkeyPatch) -> None:
    target, recording = FaultyTarget(), Recording("faulty:", HZ, "host")
    log = log_of(monkeypatch, target)
    acts = during(recording, {5: lambda: target.faults.inject(Fault.COLLECT)})
    with pytest.raises(KernelError, match="ENOMEM"):
        await record(target, recording, hz=HZ, seconds=1, progress=acts, now_ns=now_ns)
    assert recording.trace().intervals == 5
    assert "ENOMEM" in recording.trace().meta["ended"]
    assert (log.stops, target.released) == (1, 1)


@in_virtual_time
async def test_cancelled_recording_keeps_its_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    target, recording = FaultyTarget(), Recording("faulty:", HZ, "host")
    log = log_of(monkeypatch, target)
    task = asyncio.create_task(record(target, recording, hz=HZ, seconds=100, now_ns=now_ns))
    await asyncio.sleep(10.01)
    target.put(0, 0, 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    trace = recording.trace()
    assert 495 <= trace.intervals <= 501
    assert trace.written(trace.intervals - 1) == PageRuns([(0, 1)]), "with the last write"
    assert trace.meta["ended"] == STOPPED
    assert (log.stops, target.released) == (1, 1)


@in_virtual_time
async def test_recording_cancelled_during_a_mode_read_keeps_the_last_write(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target, recording = FaultyTarget(), Recording("faulty:", HZ, "host")
    log_of(monkeypatch, target)

    def stall() -> None:
        target.mode_requested.clear()
        target.answering.clear()
        target.activity.notify()
        target.put(0, 0, 1)

    acts = during(recording, {5: stall})
    task = asyncio.create_task(record(target, recording, hz=HZ, seconds=9, progress=acts, now_ns=now_ns))
    await asyncio.sleep(5.5 / HZ)
    await target.mode_requested.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert recording.trace().intervals == 6
    assert recording.trace().written(5) == PageRuns([(0, 1)])


@in_virtual_time
async def test_refused_log_is_an_error_and_nothing_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    target, recording = FaultyTarget(), Recording("faulty:", HZ, "host")
    log = log_of(monkeypatch, target)

    def refuse(extent: Extent) -> None:
        raise Refused("ptrace", "pid 7", "EPERM")

    monkeypatch.setattr(log, "start", refuse)
    with pytest.raises(VramtapError, match=r"its writes cannot be logged: ptrace pid 7: EPERM .*doctor"):
        await record(target, recording, hz=HZ, seconds=1, now_ns=now_ns)
    assert (log.stops, target.released, recording.intervals) == (1, 1, 0)


@pytest.mark.parametrize("fails", [False, True])
@in_virtual_time
async def test_recording_cancelled_while_attaching_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fails: bool
) -> None:
    target, recording = FaultyTarget(), Recording("faulty:", HZ, "host")
    log, arming, go = log_of(monkeypatch, target), threading.Event(), threading.Event()

    def start(extent: Extent) -> None:
        arming.set()
        assert go.wait(60)
        if fails:
            raise Refused("ptrace", "pid 7", "EPERM")

    monkeypatch.setattr(log, "start", start)
    task = asyncio.create_task(record(target, recording, hz=HZ, seconds=1, now_ns=now_ns))
    assert await asyncio.to_thread(arming.wait, 60)
    task.cancel()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    del task
    gc.collect()
    assert (log.stops, target.released, recording.intervals) == (1, 1, 0)
    assert not [each for each in caplog.records if each.levelname == "ERROR"], "every exception was retrieved"


def test_recording_that_has_not_begun_has_no_trace() -> None:
    with pytest.raises(ValueError, match="not begun"):
        Recording("faulty:", HZ, "host").trace()


@in_virtual_time
async def test_full_trace_ends_the_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    target = FaultyTarget()
    log_of(monkeypatch, target)
    monkeypatch.setattr("vramtap.trace.trace.MAX_INTERVALS", 7)
    trace = await recorded(target)
    assert trace.intervals == 7
    assert trace.meta["ended"] == "the trace has reached its longest length"


@in_virtual_time
async def test_pages_are_relative_to_the_window() -> None:
    target = FaultyTarget(MOVED)
    log, recording = SoftLog(target), Recording("faulty:", HZ, "host")
    log.start(target.extent)
    follower = Follower(log, recording, MOVED)
    assert follower.add(1, PageRuns([(8, 9), (13, 14)]), MOVED) == ""
    assert follower.add(2, AllDirty(Reason.REMAPPED), MOVED) == ""
    trace = recording.trace()
    assert trace.written(0) == PageRuns([(0, 1), (5, 6)])
    assert trace.written(1) == PageRuns.full(WINDOW)
    assert trace.meta["all_dirty"] == "remapped 1"
    assert recording.pages_written == 2 + WINDOW
    assert recording.pages == WINDOW < PAGES


@pytest.mark.parametrize(
    ("seconds", "hz", "intervals"), [(1, 60, 60), (0.1, 60, 6), (0.7, 10, 7), (0.3, 10, 3), (0.01, 60, 1)]
)
def test_intervals_in_a_time(seconds: float, hz: float, intervals: int) -> None:
    assert intervals_in(seconds, hz) == intervals


def test_measured_costs_are_in_the_trace() -> None:
    recording = Recording("faulty:", HZ, "host")
    recording.begin(XR24)
    assert costs_of(recording.trace()) is None
    recording.costs = REFERENCE
    assert costs_of(recording.trace()) == REFERENCE


def test_costs_of_older_recordings_are_read_and_written_under_the_present_name() -> None:
    factor = dataclasses.replace(REFERENCE, guest_cost_factor=3.0)
    present = dataclasses.asdict(factor)
    names = {"guest_cost_factor": "guest_weight", "scan_us": "look_us"}
    former = {names.get(name, name): value for name, value in present.items()}
    assert set(former) >= {"guest_weight", "look_us"}
    assert costs_of(TraceBuilder(3).build({"costs": json.dumps(former)})) == factor
    recording = Recording("faulty:", HZ, "host")
    recording.begin(XR24)
    recording.costs = factor
    assert json.loads(recording.trace().meta["costs"]) == present


BOTH_NAMES = json.dumps({**dataclasses.asdict(REFERENCE), "guest_weight": 1})


@pytest.mark.parametrize(
    "text", ["{", "[" * 60_000, "[]", "{}", '{"fault_us": 1}', '{"more": 1}', BOTH_NAMES]
)
def test_invalid_costs_are_refused(text: str) -> None:
    builder = TraceBuilder(3)
    with pytest.raises(VramtapError):
        costs_of(builder.build({"costs": text}))


class Measuring:
    """A hybrid tracker with scripted measurements.

    Args:
        held_us: `held_us` of each measurement, in turn, microseconds.
        unarmable: Why it cannot be armed; empty if it can.
        error: Error that `start` raises, or None.
    """

    def __init__(self, held_us: list[float], unarmable: str = "", error: Exception | None = None) -> None:
        self._held_us = iter(held_us)
        self.unarmable = unarmable
        self._error = error
        self.disarmed = 0
        self.costs = REFERENCE

    def start(self, extent: Extent) -> None:
        if self._error is not None:
            raise self._error
        self.costs = dataclasses.replace(REFERENCE, held_us=next(self._held_us))

    def stop(self) -> None:
        self.disarmed += 1


@in_virtual_time
async def test_median_drops_an_interrupted_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    hybrid = Measuring([100, 5000, 90, 110, 9000])
    monkeypatch.setattr(module, "HybridTracker", lambda allow_filtered, policy: hybrid)
    assert module.measured(FaultyTarget()) == dataclasses.replace(REFERENCE, held_us=110)
    assert hybrid.disarmed == module.MEASUREMENTS


@pytest.mark.parametrize(
    "hybrid",
    [Measuring([1, 2], unarmable="no full userfaultfd"), Measuring([], error=Refused("ptrace", "7"))],
)
@in_virtual_time
async def test_costs_that_cannot_be_measured_are_none(
    monkeypatch: pytest.MonkeyPatch, hybrid: Measuring
) -> None:
    monkeypatch.setattr(module, "HybridTracker", lambda allow_filtered, policy: hybrid)
    assert module.measured(FaultyTarget()) is None
    assert hybrid.disarmed == 1


@in_virtual_time
async def test_writes_before_a_page_flip_are_not_in_the_next_interval() -> None:
    memory = np.zeros(20 * PAGE_SIZE, np.uint8)
    extent, offset = extent_of(memory)
    first = dataclasses.replace(XR24, offset_bytes=offset)
    second = dataclasses.replace(XR24, offset_bytes=offset + 8 * PAGE_SIZE)
    log, recording = LogTracker(), Recording("own:", HZ, "host")
    log.start(extent)
    try:
        follower = Follower(log, recording, first)
        memory[8 * PAGE_SIZE] = 1  # drawn outside the window
        assert follower.add(1, follower.collect(), second) == ""
        memory[10 * PAGE_SIZE] = 1
        assert follower.add(2, follower.collect(), second) == ""
    finally:
        log.stop()
    trace = recording.trace()
    assert trace.written(0) == PageRuns.full(trace.pages)
    assert trace.written(1) == PageRuns([(2, 3)])
