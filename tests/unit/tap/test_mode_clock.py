"""When the mode is read again: pure decisions, with times of the tests' own."""

from __future__ import annotations

import pytest

from vramtap.tap.mode_clock import ModeClock
from vramtap.tap.timings import DEFAULT_TIMINGS

NOW_S = 1000.0


def answered(
    *, announced: bool = False, linear: bool = True, active: bool = False, armed: bool = False
) -> ModeClock:
    clock = ModeClock(announced=announced)
    clock.reading()
    clock.mode_read(NOW_S, linear=linear, active=active, armed=armed)
    return clock


def test_mode_is_due_at_first_and_not_during_a_read() -> None:
    clock = ModeClock(announced=True)
    assert clock.due(0.0, active=False)
    clock.reading()
    assert not clock.due(1e9, active=False)
    clock.hurry()
    assert clock.due(0.0, active=False), "what happened meanwhile is not forgotten"


@pytest.mark.parametrize(
    ("announced", "linear", "active", "rest_s"),
    [
        (False, True, False, DEFAULT_TIMINGS.mode_idle_s),
        (False, True, True, DEFAULT_TIMINGS.mode_busy_s),
        (False, False, False, DEFAULT_TIMINGS.snapshot_idle_s),
        (False, False, True, DEFAULT_TIMINGS.snapshot_idle_s),
        (True, True, False, float("inf")),
        (True, True, True, DEFAULT_TIMINGS.mode_busy_s),
        (True, False, False, float("inf")),
        (True, False, True, float("inf")),
    ],
)
def test_mode_is_due_again_after_the_interval_of_its_state(
    announced: bool, linear: bool, active: bool, rest_s: float
) -> None:
    clock = answered(announced=announced, linear=linear, active=active)
    assert clock.due_s == NOW_S + rest_s
    if rest_s < float("inf"):
        assert not clock.due(NOW_S + rest_s - 0.01, active=False)
        assert clock.due(NOW_S + rest_s, active=False)


def test_mode_is_read_ten_times_a_second_while_pages_are_written() -> None:
    clock = answered()
    assert not clock.due(NOW_S + DEFAULT_TIMINGS.mode_busy_s - 0.01, active=True)
    assert clock.due(NOW_S + DEFAULT_TIMINGS.mode_busy_s, active=True)
    assert not clock.due(NOW_S + DEFAULT_TIMINGS.mode_busy_s, active=False)


def test_mode_is_due_once_more_after_the_last_write() -> None:
    clock = answered(announced=True)
    clock.pages_written(NOW_S + 5)
    assert not clock.due(NOW_S + 5, active=False)
    assert clock.due(NOW_S + 5 + DEFAULT_TIMINGS.mode_busy_s, active=False)
    clock.pages_written(NOW_S + 6)
    assert clock.due_s == NOW_S + 5 + DEFAULT_TIMINGS.mode_busy_s, "it does not recede while writes go on"


def test_every_active_scan_after_a_flip_reads_the_mode() -> None:
    clock = answered()
    assert not clock.flipping(NOW_S)
    clock.flipped(NOW_S)
    assert clock.flipping(NOW_S + DEFAULT_TIMINGS.flipping_s - 0.01)
    assert clock.due(NOW_S + 0.001, active=True)
    assert not clock.due(NOW_S + 0.001, active=False)
    assert not clock.flipping(NOW_S + DEFAULT_TIMINGS.flipping_s)


def test_mode_interval_of_an_armed_target_doubles() -> None:
    clock, now_s, rests = ModeClock(announced=False), NOW_S, []
    for _ in range(12):
        clock.reading()
        clock.mode_read(now_s, linear=True, active=False, armed=True)
        rests.append(clock.due_s - now_s)
        now_s = clock.due_s
    assert rests[:4] == [2, 4, 8, 16]
    assert rests[-3:] == [DEFAULT_TIMINGS.mode_armed_s] * 3
    clock.reading()
    clock.mode_read(now_s, linear=True, active=False, armed=False)
    assert clock.due_s == now_s + DEFAULT_TIMINGS.mode_idle_s
    clock.reading()
    clock.mode_read(now_s, linear=True, active=False, armed=True)
    assert clock.due_s == now_s + 2 * DEFAULT_TIMINGS.mode_idle_s, "from the beginning again"


@pytest.mark.parametrize("announced", [False, True])
def test_mode_that_was_not_answered_in_time_is_read_again(announced: bool) -> None:
    clock = ModeClock(announced=announced)
    clock.reading()
    clock.read_timed_out(NOW_S)
    assert clock.due_s == NOW_S + DEFAULT_TIMINGS.mode_idle_s


def test_hurried_mode_stays_due_after_an_answer() -> None:
    clock = ModeClock(announced=True)
    clock.reading()
    clock.hurry()
    clock.mode_read(NOW_S, linear=True, active=False, armed=False)
    assert clock.due(NOW_S, active=False)
