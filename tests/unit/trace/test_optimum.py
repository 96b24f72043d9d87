"""Optimum: no schedule of a tiny trace costs less than the lower bound, tried exhaustively."""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.random_policy import RandomPolicy
from support.traces import trace_of
from vramtap.errors import VramtapError
from vramtap.policy.costs import REFERENCE, Costs
from vramtap.policy.decide import CompareAlways, LogAlways, OnlinePolicy, Policy
from vramtap.trace import optimum as module
from vramtap.trace.optimum import Planned, optimum
from vramtap.trace.reference_policies import XenTwoSeconds
from vramtap.trace.replay import replay
from vramtap.trace.trace import TraceBuilder

if TYPE_CHECKING:
    from vramtap.trace.trace import Trace

# Ranges in which each choice is the best one for some trace of a small extent.
COSTS = st.builds(
    Costs,
    fault_us=st.floats(0.0, 20.0),
    page_us=st.floats(0.1, 10.0),
    protect_us=st.floats(0.0, 60.0),
    scan_us=st.floats(0.1, 60.0),
    arm_us=st.floats(0.0, 60.0),
    hand_over_us=st.floats(0.0, 20.0),
    held_us=st.floats(0.0, 20.0),
    guest_cost_factor=st.sampled_from([0.0, 1.0, 5.0]),
)
SLACK = 1 + 1e-9


def _cheapest(trace: Trace, costs: Costs, tile_pages: int) -> float:
    """Return the least cost of all schedules, over all sets of open tiles and all sets of armed scans."""
    scans, tiles = trace.intervals, len(trace.tiles(tile_pages))
    written = np.flatnonzero(np.diff(trace.starts))
    quiet = sorted(set(range(scans)) - set(written.tolist()))
    least = float("inf")
    for bits in itertools.product([False, True], repeat=scans * tiles):
        opened = np.array(bits, dtype=np.bool_).reshape(scans, tiles)
        for count in range(len(quiet) + 1):
            for armed in itertools.combinations(quiet, count):
                planned = Planned(opened, armed, written)
                least = min(least, replay(trace, planned, costs, tile_pages).total_us)
    return least


@settings(max_examples=15, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=5), COSTS)
def test_bounds_meet_with_one_tile_of_one_page(written: list[bool], costs: Costs) -> None:
    """No call is shared and no fault is left out, so both bounds are the optimum."""
    trace = trace_of([{0} if each else set() for each in written], 1)
    best, least = optimum(trace, costs, 1), _cheapest(trace, costs, 1)
    assert best.lower_us == pytest.approx(least)
    assert best.upper_us == pytest.approx(least)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.sets(st.integers(0, 2)), min_size=1, max_size=3), COSTS, st.integers(0, 4))
def test_optimum_is_between_the_bounds(written: list[set[int]], costs: Costs, rounds: int) -> None:
    trace = trace_of(written, 3)
    best, least = optimum(trace, costs, 2, rounds), _cheapest(trace, costs, 2)
    assert best.lower_us <= least * SLACK
    assert least <= best.upper_us * SLACK


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.sets(st.integers(0, 9)) | st.just(set()), min_size=1, max_size=60), COSTS, st.integers(0, 999)
)
def test_no_policy_that_scans_every_interval_costs_less_than_the_lower_bound(
    written: list[set[int]], costs: Costs, seed: int
) -> None:
    trace = trace_of(written, 10)
    best = optimum(trace, costs, 3)
    policies: list[Policy] = [
        OnlinePolicy(),
        LogAlways(),
        CompareAlways(),
        XenTwoSeconds(),
        RandomPolicy(seed),
    ]
    for policy in policies:
        assert replay(trace, policy, costs, 3).total_us * SLACK >= best.lower_us


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sets(st.integers(0, 9)) | st.just(set()), min_size=1, max_size=60), COSTS)
def test_schedule_costs_the_upper_bound(written: list[set[int]], costs: Costs) -> None:
    trace = trace_of(written, 10)
    best = optimum(trace, costs, 3)
    planned = Planned(best.unprotected, best.armed, np.flatnonzero(np.diff(trace.starts)))
    assert replay(trace, planned, costs, 3).total_us == pytest.approx(best.upper_us)
    assert not any(written[scan] for scan in best.armed)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sets(st.integers(0, 9)) | st.just(set()), min_size=1, max_size=60), COSTS)
def test_bounds_hold_with_fewer_hypotheses(written: list[set[int]], costs: Costs) -> None:
    trace = trace_of(written, 10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_HYPOTHESES", 1)
        relaxed = optimum(trace, costs, 3, 0)
    full = optimum(trace, costs, 3, 0)
    assert relaxed.lower_us <= full.lower_us * SLACK
    assert relaxed.upper_us * SLACK >= full.lower_us


def test_long_gap_is_armed_and_short_gap_is_not() -> None:
    written: list[set[int]] = [{0}, *[set()] * 10, {1}, *[set()] * 500, {2}, *[set()] * 500]
    best = optimum(trace_of(written, 64), REFERENCE, 16)
    assert best.armed == (12, 513)
    armings = 2 * REFERENCE.arming_us(64) + REFERENCE.waking_us(64)
    logged_us = REFERENCE.fault_us + REFERENCE.page_us + REFERENCE.protect_us
    # The second page's tile is opened: arming protects it again anyway, and reading it twice costs less than
    # a call.
    opened_us = REFERENCE.fault_us + 2 * 16 * REFERENCE.page_us
    expected_us = 14 * REFERENCE.scan_us + armings + logged_us + opened_us
    assert best.upper_us == pytest.approx(expected_us)
    assert best.lower_us >= 0.9 * expected_us


def test_tiles_that_a_video_writes_are_open() -> None:
    best = optimum(trace_of([set(range(32))] * 50, 64), REFERENCE, 16)
    assert best.unprotected[:, :2].all()
    assert not best.unprotected[:, 2:].any()
    assert best.lower_us == pytest.approx(50 * (60 + 32 * 1.6) + 32 * 0.75)


def test_bounds_are_close_if_a_tile_often_pays_alone() -> None:
    """An equal split of the call's price is far from the optimum where one tile pays alone."""
    costs = dataclasses.replace(REFERENCE, protect_us=40.0)
    written = [{0, 20} if number % 3 else {0} for number in range(60)]
    best = optimum(trace_of(written, 32), costs, 16)
    assert best.upper_us <= 1.02 * best.lower_us


def test_empty_trace_has_no_optimum() -> None:
    with pytest.raises(VramtapError, match="has no interval"):
        optimum(TraceBuilder(3).build({}), REFERENCE, 2)
