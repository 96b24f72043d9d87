"""HybridTracker with a fake log, watchdog and policy that record their calls: the order of the steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from support.fake_hybrid import (
    COSTS,
    EXTENT,
    LOGS_WAKER,
    PAGES,
    TILE_PAGES,
    FakeLog,
    FakePolicy,
    FakeWatchdog,
    World,
)
from vramtap.errors import KernelError, TargetGone, VramtapError
from vramtap.pages import NO_PAGES, PAGE_SIZE, PageRuns
from vramtap.policy.decide import State
from vramtap.trackers.base import AllDirty, Reason
from vramtap.trackers.userfault import hybrid as module
from vramtap.trackers.userfault.hybrid import HybridTracker

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def policy() -> FakePolicy:
    return FakePolicy()


@pytest.fixture
def tracker(world: World, policy: FakePolicy, monkeypatch: pytest.MonkeyPatch) -> Iterator[HybridTracker]:
    monkeypatch.setattr(module, "LogTracker", lambda **options: FakeLog(world))
    monkeypatch.setattr(module, "measure_costs", lambda *arguments: COSTS)
    made = HybridTracker(policy=policy, tile_pages=TILE_PAGES)
    made.start(EXTENT)
    world.take_calls()
    yield made
    made.stop()


RELEASED = ["lift", "unregister", "wake"]
ARMED = ["suspend", "register", "is_mapped", "protect"]


def arm(tracker: HybridTracker, world: World, policy: FakePolicy) -> None:
    policy.arms()
    assert tracker.collect() == AllDirty(Reason.ARMED)
    assert tracker.armed
    world.take_calls()


# Arming and waking up


def test_arming_protects_before_it_answers(tracker: HybridTracker, world: World, policy: FakePolicy) -> None:
    policy.arms()
    assert tracker.collect() == AllDirty(Reason.ARMED)
    assert world.take_calls() == ["collect", "is_mapped", "ready", *ARMED]
    assert tracker.armed


def test_collect_while_armed_only_checks_the_mapping(
    tracker: HybridTracker, world: World, policy: FakePolicy
) -> None:
    arm(tracker, world, policy)
    assert tracker.collect() == NO_PAGES
    assert world.take_calls() == ["is_mapped"]


def test_wake_up_protects_with_the_log_before_it_answers(
    tracker: HybridTracker, world: World, policy: FakePolicy
) -> None:
    arm(tracker, world, policy)
    world.fired = True
    assert tracker.collect() == AllDirty(Reason.WOKEN)
    assert world.take_calls() == [
        "wait_released",
        "lift",
        "unregister",
        "wake",
        "acknowledge",
        "resume",
        "collect",
    ]
    assert not tracker.armed
    assert policy.slept_s[0] is not None
    assert policy.slept_s[0] >= 0


def test_pages_near_the_write_come_first_and_all_dirty_next(
    tracker: HybridTracker, world: World, policy: FakePolicy
) -> None:
    arm(tracker, world, policy)
    world.fired, world.where = True, EXTENT.address + 10 * PAGE_SIZE
    near = tracker.collect()
    assert isinstance(near, PageRuns)
    assert 10 in near
    assert near == near.clip(0, PAGES)
    assert world.take_calls()[-1] == "resume", "the log protects before the caller reads"
    assert tracker.collect() == AllDirty(Reason.WOKEN)


def test_late_watchdog_is_pinged_and_the_protection_lifted(
    tracker: HybridTracker, world: World, policy: FakePolicy
) -> None:
    arm(tracker, world, policy)
    world.fired, world.answers = True, False
    assert tracker.collect() == AllDirty(Reason.WOKEN)
    assert world.take_calls() == ["wait_released", "ping", *RELEASED, "acknowledge", "resume", "collect"]


def test_hole_while_armed_wakes(tracker: HybridTracker, world: World, policy: FakePolicy) -> None:
    arm(tracker, world, policy)
    world.hole = True
    assert isinstance(tracker.collect(), AllDirty)
    assert not tracker.armed


def test_extent_is_not_armed_before_the_watchdog_is_ready(
    tracker: HybridTracker, world: World, policy: FakePolicy
) -> None:
    world.is_ready = False
    policy.arms()
    for _ in range(3):
        assert tracker.collect() == NO_PAGES
        assert not tracker.armed
    assert "suspend" not in world.take_calls()
    world.is_ready = True
    assert tracker.collect() == AllDirty(Reason.ARMED)


def test_extent_is_not_armed_before_a_late_watchdog_has_answered(
    tracker: HybridTracker, world: World, policy: FakePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeWatchdog, "answered", False)
    arm(tracker, world, policy)
    world.fired, world.answers = True, False
    tracker.collect()
    policy.arms()
    world.take_calls()
    for _ in range(3):
        assert tracker.collect() == NO_PAGES
        assert world.take_calls() == ["acknowledge", "collect"]
    monkeypatch.setattr(FakeWatchdog, "answered", True)
    assert tracker.collect() == AllDirty(Reason.ARMED)


def test_ended_watchdog_is_closed_and_reported(
    tracker: HybridTracker, world: World, policy: FakePolicy, caplog: pytest.LogCaptureFixture
) -> None:
    world.is_ready = world.lives = False
    policy.arms()
    assert tracker.collect() == NO_PAGES
    assert world.take_calls()[-1] == "close"
    assert "has ended: never armed again" in caplog.text
    assert tracker.unarmable == "the watchdog has ended"
    assert tracker.wake(lambda: None) is LOGS_WAKER
    assert tracker.collect() == NO_PAGES
    assert not tracker.armed


def test_extent_is_not_armed_while_pages_are_pending(
    tracker: HybridTracker, world: World, policy: FakePolicy
) -> None:
    policy.arms()
    world.written = PageRuns([(2, 3)])
    assert tracker.collect() == PageRuns([(2, 3)])
    tracker.restore(PageRuns([(2, 3)]))
    assert tracker.collect() == PageRuns([(2, 3)])
    assert not tracker.armed
    assert tracker.collect() == AllDirty(Reason.ARMED)


# Failures


def test_refused_registration_lifts_no_protection(
    tracker: HybridTracker, world: World, policy: FakePolicy
) -> None:
    """The range may be registered with another program's userfaultfd."""
    world.fail["register"] = KernelError("UFFDIO_REGISTER", "target", 16)
    policy.arms()
    answer = tracker.collect()
    assert isinstance(answer, AllDirty)
    assert answer.reason is Reason.REMAPPED
    assert "EBUSY" in answer.detail
    assert world.take_calls()[-3:] == ["suspend", "register", "resume"]
    assert not tracker.armed


def test_refused_protection_gives_up_the_registration(
    tracker: HybridTracker, world: World, policy: FakePolicy
) -> None:
    world.fail["protect"] = KernelError("UFFDIO_WRITEPROTECT", "target", 2)
    policy.arms()
    assert isinstance(tracker.collect(), AllDirty)
    assert world.take_calls()[-6:] == ["is_mapped", "protect", *RELEASED, "resume"]
    assert not tracker.armed
    assert tracker.collect() == AllDirty(Reason.ARMED), "the next attempt succeeds"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), TargetGone("a", "b", "c")])
def test_other_errors_while_arming_propagate_after_cleanup(
    tracker: HybridTracker, world: World, policy: FakePolicy, error: BaseException
) -> None:
    world.fail["protect"] = error
    policy.arms()
    with pytest.raises(type(error)):
        tracker.collect()
    assert world.take_calls()[-4:] == [*RELEASED, "resume"]
    assert not tracker.armed
    assert isinstance(tracker.collect(), AllDirty), "writes in between are in no log"


def test_refused_unregistration_closes_the_watchdog(
    tracker: HybridTracker, world: World, policy: FakePolicy
) -> None:
    arm(tracker, world, policy)
    world.fired = True
    world.fail["unregister"] = KernelError("UFFDIO_UNREGISTER", "target", 22)
    assert tracker.collect() == AllDirty(Reason.WOKEN)
    assert world.take_calls() == ["wait_released", "lift", "unregister", "close", "resume", "collect"]
    assert "UFFDIO_UNREGISTER" in tracker.unarmable


# Tiles


def test_unprotected_tiles_are_always_reported_and_counted_by_feedback(
    tracker: HybridTracker, world: World, policy: FakePolicy
) -> None:
    policy.unprotects(1)
    assert tracker.collect() == NO_PAGES
    assert tracker.unprotected == PageRuns([(4, 8)])
    assert not tracker.wants_feedback
    policy.seen.clear()
    world.written = PageRuns([(0, 2), (5, 6)])
    assert tracker.collect() == PageRuns([(0, 2), (4, 8)])
    assert tracker.wants_feedback
    assert policy.seen == [], "the policy waits for the feedback"
    tracker.feedback(PageRuns([(1, 6)]))
    # The log counts for logged tiles, the feedback for unprotected ones.
    assert policy.seen == [[2, 2, 0]]
    assert not tracker.wants_feedback
    tracker.feedback(PageRuns([(4, 8)]))
    assert policy.seen == [[2, 2, 0]], "feedback counts once"


def test_window_reports_the_unprotected_tiles_in_it(
    tracker: HybridTracker, world: World, policy: FakePolicy
) -> None:
    policy.unprotects(0, 1)
    tracker.collect()
    assert tracker.collect((2, 6)) == PageRuns([(2, 6)])


def test_without_feedback_all_unprotected_pages_count_as_changed(
    tracker: HybridTracker, policy: FakePolicy
) -> None:
    policy.unprotects(1)
    tracker.collect()
    policy.seen.clear()
    tracker.collect()
    tracker.collect()
    assert policy.seen == [[0, 4, 0]]


def test_tile_that_becomes_logged_is_reported_but_not_counted(
    tracker: HybridTracker, world: World, policy: FakePolicy
) -> None:
    policy.unprotects(1)
    tracker.collect()
    world.written = PageRuns([(4, 8)])
    tracker.collect()
    policy.unprotects()
    tracker.feedback(NO_PAGES)
    assert tracker.unprotected == NO_PAGES
    policy.seen.clear()
    world.written = world.written.union(PageRuns([(9, 10)]))
    assert tracker.collect() == PageRuns([(4, 8), (9, 10)])
    assert policy.seen == [[0, 0, 1]]
    world.written = PageRuns([(4, 5)])
    assert tracker.collect() == PageRuns([(4, 5)])
    assert policy.seen[-1] == [0, 1, 0]


def test_extent_is_not_armed_while_a_tile_is_unprotected(
    tracker: HybridTracker, world: World, policy: FakePolicy
) -> None:
    policy.unprotects(0)
    tracker.collect()
    policy.next = State(np.array([True, False, False]), armed=True)
    for _ in range(3):
        assert tracker.collect() == PageRuns([(0, 4)])
        tracker.feedback(NO_PAGES)
        assert not tracker.armed
    assert "suspend" not in world.take_calls()


def test_wake_up_logs_a_tile_that_was_unprotected_at_arming(
    tracker: HybridTracker, world: World, policy: FakePolicy
) -> None:
    policy.next = State(np.array([True, False, False]), armed=True)
    assert tracker.collect() == AllDirty(Reason.ARMED)
    assert tracker.collect() == NO_PAGES
    world.fired = True
    assert tracker.collect() == AllDirty(Reason.WOKEN)
    assert tracker.unprotected == NO_PAGES


# Waking


def test_wake_gives_a_descriptor_only_while_armed(
    tracker: HybridTracker, world: World, policy: FakePolicy
) -> None:
    assert tracker.wake(lambda: None) is None
    arm(tracker, world, policy)
    called: list[int] = []
    waker = tracker.wake(lambda: called.append(1))
    assert waker is not None
    assert waker.fd == 4712
    waker.cancel()
    assert not called
    tracker.restore(PageRuns([(1, 2)]))
    waker = tracker.wake(lambda: called.append(1))
    assert waker is not None
    waker.cancel()
    assert called, "pages are pending already"


def test_stop_closes_watchdog_and_log(tracker: HybridTracker, world: World, policy: FakePolicy) -> None:
    arm(tracker, world, policy)
    tracker.stop()
    assert world.take_calls() == ["close", "disarm"]
    assert not tracker.armed
    assert not tracker.wants_feedback
    assert tracker.unprotected == NO_PAGES
    assert tracker.watchdog_pid is None


def test_costs_are_known_once_started(tracker: HybridTracker) -> None:
    assert tracker.costs == COSTS
    with pytest.raises(VramtapError, match="not started"):
        HybridTracker().costs  # noqa: B018 - asking is the test
