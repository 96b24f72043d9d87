"""Arming: what is proved of it holds for any gaps, and it learns from them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vramtap.policy.arming_rule import Arming, ArmingRule

GAPS = st.lists(st.integers(1, 400) | st.just(100_000), max_size=60)
WHOLES = st.floats(0.0, 200.0)


def _rule(whole: float, budget: float = 4.0, forget: float = 0.98) -> ArmingRule:
    return ArmingRule.of(whole, 1.0, 1 / 32, forget, budget)


def _live(arming: Arming, gap: int) -> tuple[Arming, float]:
    """One gap lived through: the state after it, and what it cost."""
    for looks in range(1, gap + 1):
        arming = arming.quiet()
        if arming.is_due:
            cost = looks + arming.rule.whole
            return arming.woken(gap - looks), cost
    return arming.gap_ended(), gap


@settings(deadline=None)
@given(GAPS, WHOLES, st.floats(0.0, 8.0), st.floats(0.0, 1.0))
def test_it_costs_break_even_and_a_constant_at_most(
    gaps: list[int], whole: float, budget: float, forget: float
) -> None:
    arming = Arming.begin(_rule(whole, budget, forget))
    spent = even = cheapest = 0.0
    for gap in gaps:
        arming, cost = _live(arming, gap)
        spent += cost
        even += gap if gap <= math.floor(whole) else math.floor(whole) + 1 + whole
        cheapest += min(gap, 1 + whole)
        assert spent <= even + budget * whole + 1e-6
        assert spent <= 2 * cheapest + budget * whole + 1e-6


def test_without_credit_it_is_the_break_even_rule() -> None:
    arming = Arming.begin(_rule(50.0, budget=0.0))
    assert arming.due == 51
    for gap in (10, 70, 10, 70):
        arming, cost = _live(arming, gap)
        assert cost == (10 if gap == 10 else 101)


def test_what_is_idle_from_the_beginning_is_armed_at_the_first_look() -> None:
    assert Arming.begin(_rule(53.2)).quiet().is_due


def test_one_gap_too_short_is_enough_to_learn_it() -> None:
    arming, cost = _live(Arming.begin(_rule(50.0)), 12)
    assert cost == 1 + 50
    for _ in range(20):
        arming, cost = _live(arming, 12)
        assert cost == 12


def test_gaps_that_are_always_long_are_armed_early() -> None:
    arming = Arming.begin(_rule(50.0))
    for _ in range(3):
        arming, _ = _live(arming, 12)
    for _ in range(10):
        arming, cost = _live(arming, 5_000)
    assert cost < 60


def test_without_a_gap_nothing_changes() -> None:
    arming = Arming.begin(_rule(200.0))
    assert arming.gap_ended() is arming


def test_refused_it_waits_for_break_even() -> None:
    arming = Arming.begin(_rule(50.0)).quiet()
    assert arming.is_due
    refused = arming.refused()
    assert (refused.rent, refused.due) == (0, 51)


def test_asleep_nobody_knows_how_long_it_becomes_the_break_even_rule() -> None:
    arming = Arming.begin(_rule(50.0))
    for _ in range(20):
        while not arming.is_due:
            arming = arming.quiet()
        arming = arming.woken(None)
    assert arming.due >= 51


@pytest.mark.parametrize("whole", [0.0, 0.3])
def test_where_arming_is_cheap_it_is_done_at_the_first_look(whole: float) -> None:
    arming = Arming.begin(_rule(whole))
    for gap in (1, 5, 1, 1, 9):
        assert arming.quiet().is_due
        arming, _ = _live(arming, gap)
