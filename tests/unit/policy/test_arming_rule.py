"""The rule for arming: the proved bound holds for any gaps, and the threshold adapts."""

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


def _run_gap(arming: Arming, gap: int) -> tuple[Arming, float]:
    """Run the rule through one gap; return the state after it and its cost."""
    for scans in range(1, gap + 1):
        arming = arming.quiet()
        if arming.is_due:
            cost = scans + arming.rule.whole
            return arming.woken(gap - scans), cost
    return arming.gap_ended(), gap


@settings(deadline=None)
@given(GAPS, WHOLES, st.floats(0.0, 8.0), st.floats(0.0, 1.0))
def test_cost_is_at_most_break_even_plus_a_constant(
    gaps: list[int], whole: float, budget: float, forget: float
) -> None:
    arming = Arming.begin(_rule(whole, budget, forget))
    spent = even = cheapest = 0.0
    for gap in gaps:
        arming, cost = _run_gap(arming, gap)
        spent += cost
        even += gap if gap <= math.floor(whole) else math.floor(whole) + 1 + whole
        cheapest += min(gap, 1 + whole)
        assert spent <= even + budget * whole + 1e-6
        assert spent <= 2 * cheapest + budget * whole + 1e-6


def test_rule_without_budget_is_break_even() -> None:
    arming = Arming.begin(_rule(50.0, budget=0.0))
    assert arming.due == 51
    for gap in (10, 70, 10, 70):
        arming, cost = _run_gap(arming, gap)
        assert cost == (10 if gap == 10 else 101)


def test_screen_idle_from_the_start_is_armed_after_one_scan() -> None:
    assert Arming.begin(_rule(53.2)).quiet().is_due


def test_one_short_gap_raises_the_threshold() -> None:
    arming, cost = _run_gap(Arming.begin(_rule(50.0)), 12)
    assert cost == 1 + 50
    for _ in range(20):
        arming, cost = _run_gap(arming, 12)
        assert cost == 12


def test_long_gaps_lower_the_threshold() -> None:
    arming = Arming.begin(_rule(50.0))
    for _ in range(3):
        arming, _ = _run_gap(arming, 12)
    for _ in range(10):
        arming, cost = _run_gap(arming, 5_000)
    assert cost < 60


def test_gap_ended_without_a_gap_returns_the_same_state() -> None:
    arming = Arming.begin(_rule(200.0))
    assert arming.gap_ended() is arming


def test_refused_arming_waits_for_break_even() -> None:
    arming = Arming.begin(_rule(50.0)).quiet()
    assert arming.is_due
    refused = arming.refused()
    assert (refused.rent, refused.due) == (0, 51)


def test_unknown_sleep_leads_to_break_even() -> None:
    arming = Arming.begin(_rule(50.0))
    for _ in range(20):
        while not arming.is_due:
            arming = arming.quiet()
        arming = arming.woken(None)
    assert arming.due >= 51


@pytest.mark.parametrize("whole", [0.0, 0.3])
def test_cheap_arming_is_due_after_one_scan(whole: float) -> None:
    arming = Arming.begin(_rule(whole))
    for gap in (1, 5, 1, 1, 9):
        assert arming.quiet().is_due
        arming, _ = _run_gap(arming, gap)
