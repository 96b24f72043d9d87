"""When everything is looked at again: soon while it finds something, rarely while it does not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vramtap.trackers.xen.rescan_timer import MAX_INTERVAL_S, MIN_INTERVAL_S, RescanTimer


def looks(found: bool, until_s: float, step_s: float = 0.0625) -> list[float]:
    clock, times, now_s = RescanTimer(), [], 100.0
    while now_s < 100.0 + until_s:
        if clock.due(now_s):
            clock.begin(now_s)
            clock.ended(found_changes=found)
            times.append(now_s - 100.0)
        now_s += step_s
    return times


def test_the_first_is_due_at_once_and_those_that_find_something_four_times_a_second() -> None:
    assert looks(True, 1.125) == [0, 0.25, 0.5, 0.75, 1.0]


def test_in_vain_it_becomes_once_a_second() -> None:
    assert looks(False, 4.0) == [0, 0.5, 1.5, 2.5, 3.5]


def test_one_that_finds_something_makes_the_next_one_soon() -> None:
    clock = RescanTimer()
    for now_s in (0.0, 0.5, 1.5):
        assert clock.due(now_s)
        clock.begin(now_s)
        clock.ended(found_changes=False)
    assert not clock.due(1.5 + MAX_INTERVAL_S - 0.001)
    clock.begin(2.5)
    clock.ended(found_changes=True)
    assert not clock.due(2.5 + MIN_INTERVAL_S - 0.001)
    assert clock.due(2.5 + MIN_INTERVAL_S)


def test_what_was_found_may_never_be_said() -> None:
    clock = RescanTimer()
    for at in range(8):
        assert clock.due(at * MIN_INTERVAL_S)
        clock.begin(at * MIN_INTERVAL_S)
        assert not clock.due((at + 0.9) * MIN_INTERVAL_S)


@given(st.lists(st.tuples(st.integers(0, 64), st.booleans(), st.booleans()), max_size=60))
def test_never_more_often_than_that_and_never_later(steps: list[tuple[int, bool, bool]]) -> None:
    clock, now_s, last_s = RescanTimer(), 0.0, float("-inf")
    for ticks, told, found in steps:
        now_s += ticks / 32
        assert clock.due(now_s) or now_s - last_s < MAX_INTERVAL_S
        if clock.due(now_s):
            assert now_s - last_s >= MIN_INTERVAL_S
            last_s = now_s
            clock.begin(now_s)
            if told:
                clock.ended(found_changes=found)
