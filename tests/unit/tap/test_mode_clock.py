"""When the geometry is asked for again."""

from __future__ import annotations

import pytest

from vramtap.tap.mode_clock import (
    FLIPPING_S,
    MODE_ARMED_S,
    MODE_BUSY_S,
    MODE_IDLE_S,
    SNAPSHOT_IDLE_S,
    ModeClock,
)

NOW_S = 1000.0


def answered(
    *, announced: bool = False, linear: bool = True, active: bool = False, armed: bool = False
) -> ModeClock:
    clock = ModeClock(announced=announced)
    clock.ask()
    clock.answered(NOW_S, linear=linear, active=active, armed=armed)
    return clock


def test_the_first_is_due_at_once_and_none_while_it_is_asked_for() -> None:
    clock = ModeClock(announced=True)
    assert clock.due(0.0, active=False)
    clock.ask()
    assert not clock.due(1e9, active=False)
    clock.hurry()
    assert clock.due(0.0, active=False), "what happened meanwhile is not forgotten"


@pytest.mark.parametrize(
    ("announced", "linear", "active", "rest_s"),
    [
        (False, True, False, MODE_IDLE_S),
        (False, True, True, MODE_BUSY_S),
        (False, False, False, SNAPSHOT_IDLE_S),
        (False, False, True, SNAPSHOT_IDLE_S),
        (True, True, False, float("inf")),
        (True, True, True, MODE_BUSY_S),
        (True, False, False, float("inf")),
        (True, False, True, float("inf")),
    ],
)
def test_how_long_an_answer_is_believed(announced: bool, linear: bool, active: bool, rest_s: float) -> None:
    clock = answered(announced=announced, linear=linear, active=active)
    assert clock.due_s == NOW_S + rest_s
    if rest_s < float("inf"):
        assert not clock.due(NOW_S + rest_s - 0.01, active=False)
        assert clock.due(NOW_S + rest_s, active=False)


def test_while_pages_are_written_it_is_asked_ten_times_a_second() -> None:
    clock = answered()
    assert not clock.due(NOW_S + MODE_BUSY_S - 0.01, active=True)
    assert clock.due(NOW_S + MODE_BUSY_S, active=True)
    assert not clock.due(NOW_S + MODE_BUSY_S, active=False)


def test_the_last_write_may_be_the_flip() -> None:
    clock = answered(announced=True)
    clock.written(NOW_S + 5)
    assert not clock.due(NOW_S + 5, active=False)
    assert clock.due(NOW_S + 5 + MODE_BUSY_S, active=False)
    clock.written(NOW_S + 6)
    assert clock.due_s == NOW_S + 5 + MODE_BUSY_S, "it does not recede while writes go on"


def test_flips_come_in_series() -> None:
    clock = answered()
    assert not clock.flipping(NOW_S)
    clock.flipped(NOW_S)
    assert clock.flipping(NOW_S + FLIPPING_S - 0.01)
    assert clock.due(NOW_S + 0.001, active=True)
    assert not clock.due(NOW_S + 0.001, active=False)
    assert not clock.flipping(NOW_S + FLIPPING_S)


def test_an_armed_target_is_asked_ever_more_rarely() -> None:
    clock, now_s, rests = ModeClock(announced=False), NOW_S, []
    for _ in range(12):
        clock.ask()
        clock.answered(now_s, linear=True, active=False, armed=True)
        rests.append(clock.due_s - now_s)
        now_s = clock.due_s
    assert rests[:4] == [2, 4, 8, 16]
    assert rests[-3:] == [MODE_ARMED_S] * 3
    clock.ask()
    clock.answered(now_s, linear=True, active=False, armed=False)
    assert clock.due_s == now_s + MODE_IDLE_S
    clock.ask()
    clock.answered(now_s, linear=True, active=False, armed=True)
    assert clock.due_s == now_s + 2 * MODE_IDLE_S, "from the beginning again"


def test_an_answer_does_not_put_off_what_was_hurried() -> None:
    clock = ModeClock(announced=True)
    clock.ask()
    clock.hurry()
    clock.answered(NOW_S, linear=True, active=False, armed=False)
    assert clock.due(NOW_S, active=False)
