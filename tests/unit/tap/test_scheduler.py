"""When a tap scans, sleeps and arms: the pure decisions, with times of the tests' own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramtap.tap.scheduler import Decision, Due, HandToWaker, Scheduler, SleepUntil
from vramtap.tap.timings import TapTimings

T = TapTimings()
NEVER_S = float("inf")
START_S = 1000.0


def scanned(*, took_s: float = 0.0, changed: bool = True) -> Scheduler:
    """A scheduler with one waiting viewer, after one scan at `START_S`."""
    scheduler = Scheduler(T)
    scheduler.viewer_waits()
    scheduler.scan_began(START_S)
    if changed:
        scheduler.pixels_changed()
    scheduler.scan_ended(START_S + took_s)
    return scheduler


def decide(
    scheduler: Scheduler,
    *,
    has_more: bool = False,
    may_arm: bool = True,
    tracker_idle_after_s: float = NEVER_S,
    mode_due_s: float = NEVER_S,
) -> Decision:
    return scheduler.next(
        has_more=has_more,
        may_arm=may_arm,
        tracker_idle_after_s=tracker_idle_after_s,
        mode_due_s=mode_due_s,
    )


def test_nothing_is_due_while_no_viewer_waits() -> None:
    scheduler = scanned()
    scheduler.viewer_served()
    assert decide(scheduler) == SleepUntil(NEVER_S)
    assert scheduler.due() is Due.NOTHING
    assert not scheduler.waited_for


def test_nothing_is_due_during_a_scan() -> None:
    scheduler = scanned()
    scheduler.scan_began(START_S + 1)
    assert decide(scheduler) == SleepUntil(NEVER_S)
    assert scheduler.due() is Due.NOTHING


def test_next_scan_comes_after_the_interval() -> None:
    scheduler = scanned()
    assert decide(scheduler) == SleepUntil(START_S + T.interval_s)
    assert scheduler.due() is Due.SCAN


@pytest.mark.parametrize(("took_s", "pause_s"), [(0.001, T.interval_s), (0.1, 0.2), (3.0, 6.0)])
def test_long_scans_are_limited_to_the_duty_share(took_s: float, pause_s: float) -> None:
    assert decide(scanned(took_s=took_s), may_arm=False) == SleepUntil(START_S + pause_s)


def test_failed_scan_is_repeated_after_the_retry_time() -> None:
    scheduler = scanned()
    scheduler.scan_began(START_S + 1)
    scheduler.scan_failed(START_S + 1.001)
    scheduler.scan_ended(START_S + 1.001)
    assert decide(scheduler, may_arm=False) == SleepUntil(START_S + 1.001 + T.retry_s)


def test_urgent_part_of_an_answer_is_followed_by_the_rest_at_once() -> None:
    assert decide(scanned(took_s=5.0), has_more=True) == SleepUntil(START_S + T.eager_s)


def test_tap_is_handed_to_the_waker_after_the_idle_time() -> None:
    scheduler = scanned()
    now_s = START_S
    while isinstance(decision := decide(scheduler), SleepUntil):
        now_s = decision.due_s
        scheduler.scan_began(now_s)
        scheduler.scan_ended(now_s)
    assert isinstance(decision, HandToWaker)
    assert T.idle_after_s < decision.otherwise_s - START_S <= T.idle_after_s + 2 * T.interval_s


def test_tracker_may_ask_for_a_shorter_idle_time() -> None:
    assert decide(scanned(), tracker_idle_after_s=0.01) == HandToWaker(START_S + T.interval_s)


def test_screen_that_lags_is_never_handed_to_the_waker() -> None:
    scheduler = scanned()
    scheduler.scan_began(START_S + 100)
    scheduler.scan_ended(START_S + 100)
    assert isinstance(decide(scheduler, may_arm=False), SleepUntil)
    assert isinstance(decide(scheduler, may_arm=True), HandToWaker)


def test_armed_tap_sleeps_until_the_mode_is_due() -> None:
    scheduler = scanned()
    scheduler.handed_over()
    assert scheduler.armed
    assert decide(scheduler) == SleepUntil(NEVER_S)
    assert decide(scheduler, mode_due_s=START_S + 7) == SleepUntil(START_S + 7)
    assert decide(scheduler, mode_due_s=START_S - 7) == SleepUntil(START_S + T.interval_s)
    assert scheduler.due() is Due.MODE
    scheduler.taken_back()
    assert scheduler.due() is Due.SCAN


def test_wake_up_by_descriptor_is_followed_by_eager_scans() -> None:
    scheduler = scanned()
    scheduler.handed_over()
    scheduler.woken(START_S + 20, write_seen=False)
    assert not scheduler.armed
    now_s, pauses = START_S + 20, []
    for _ in range(T.eager_scans + 2):
        scheduler.scan_began(now_s)
        scheduler.scan_ended(now_s)
        decision = decide(scheduler)
        assert isinstance(decision, SleepUntil)
        pauses.append(decision.due_s - now_s)
        now_s = decision.due_s
    assert pauses[: T.eager_scans - 1] == pytest.approx([T.eager_s] * (T.eager_scans - 1))
    assert pauses[T.eager_scans - 1 :] == pytest.approx([T.interval_s] * 3)


@pytest.mark.parametrize("write_seen", [True, False])
def test_change_ends_the_eager_scans(write_seen: bool) -> None:
    scheduler = scanned()
    scheduler.handed_over()
    scheduler.woken(START_S + 20, write_seen=write_seen)
    scheduler.scan_began(START_S + 20)
    scheduler.pixels_changed()
    scheduler.scan_ended(START_S + 20)
    assert decide(scheduler) == SleepUntil(START_S + 20 + T.interval_s)


def test_wake_up_by_callback_scans_at_the_interval() -> None:
    scheduler = scanned()
    scheduler.handed_over()
    scheduler.woken(START_S + 20, write_seen=True)
    scheduler.scan_began(START_S + 20)
    scheduler.scan_ended(START_S + 20)
    assert decide(scheduler) == SleepUntil(START_S + 20 + T.interval_s)


def test_screen_is_stale_after_two_intervals_unless_armed() -> None:
    scheduler = scanned()
    assert not scheduler.is_stale(START_S + 2 * T.interval_s)
    assert scheduler.is_stale(START_S + 2 * T.interval_s + 0.001)
    scheduler.handed_over()
    assert not scheduler.is_stale(START_S + 1e6)
    scheduler.taken_back()
    scheduler.scan_began(START_S + 5)
    assert not scheduler.is_stale(START_S + 1e6), "a scan is under way"


@given(st.lists(st.sampled_from(["change", "fail", "idle", "wake", "slow"]), max_size=60))
def test_waiting_viewer_is_never_forgotten(events: list[str]) -> None:
    """Whatever happens, the next scan is at most the duty share, the retry time or the interval away."""
    scheduler, now_s, latest_s = scanned(), START_S, START_S
    for event in events:
        if event == "wake":
            scheduler.handed_over()
            scheduler.woken(now_s, write_seen=False)
        scheduler.scan_began(now_s)
        took_s = 0.2 if event == "slow" else 0.0001
        if event == "change":
            scheduler.pixels_changed()
        if event == "fail":
            scheduler.scan_failed(now_s + took_s)
        scheduler.scan_ended(now_s + took_s)
        decision = decide(scheduler)
        due_s = decision.otherwise_s if isinstance(decision, HandToWaker) else decision.due_s
        limit_s = max(T.interval_s, took_s / T.max_duty, took_s + T.retry_s)
        latest_s = max(latest_s, now_s + limit_s)
        assert now_s < due_s <= latest_s + 1e-9
        now_s = max(due_s, now_s + took_s)
