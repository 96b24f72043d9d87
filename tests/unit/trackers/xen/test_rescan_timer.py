"""RescanTimer: short intervals while rescans find changes, long ones while they do not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vramtap.trackers.xen.rescan_timer import MAX_INTERVAL_S, MIN_INTERVAL_S, RescanTimer


def rescans(*, found: bool, until_s: float, step_s: float = 0.0625) -> list[float]:
    timer, times, now_s = RescanTimer(), [], 100.0
    while now_s < 100.0 + until_s:
        if timer.due(now_s):
            timer.begin(now_s)
            timer.ended(found_changes=found)
            times.append(now_s - 100.0)
        now_s += step_s
    return times


def test_rescans_that_find_changes_are_due_four_times_a_second() -> None:
    assert rescans(found=True, until_s=1.125) == [0, 0.25, 0.5, 0.75, 1.0]


def test_rescans_that_find_nothing_are_due_once_a_second() -> None:
    assert rescans(found=False, until_s=4.0) == [0, 0.5, 1.5, 2.5, 3.5]


def test_rescan_that_finds_a_change_shortens_the_interval() -> None:
    timer = RescanTimer()
    for now_s in (0.0, 0.5, 1.5):
        assert timer.due(now_s)
        timer.begin(now_s)
        timer.ended(found_changes=False)
    assert not timer.due(1.5 + MAX_INTERVAL_S - 0.001)
    timer.begin(2.5)
    timer.ended(found_changes=True)
    assert not timer.due(2.5 + MIN_INTERVAL_S - 0.001)
    assert timer.due(2.5 + MIN_INTERVAL_S)


def test_timer_works_without_feedback() -> None:
    timer = RescanTimer()
    for at in range(8):
        assert timer.due(at * MIN_INTERVAL_S)
        timer.begin(at * MIN_INTERVAL_S)
        assert not timer.due((at + 0.9) * MIN_INTERVAL_S)


@given(st.lists(st.tuples(st.integers(0, 64), st.booleans(), st.booleans()), max_size=60))
def test_interval_stays_between_its_limits(steps: list[tuple[int, bool, bool]]) -> None:
    timer, now_s, last_s = RescanTimer(), 0.0, float("-inf")
    for ticks, feedback, found in steps:
        now_s += ticks / 32
        assert timer.due(now_s) or now_s - last_s < MAX_INTERVAL_S
        if timer.due(now_s):
            assert now_s - last_s >= MIN_INTERVAL_S
            last_s = now_s
            timer.begin(now_s)
            if feedback:
                timer.ended(found_changes=found)
