"""Optimum: every schedule of a tiny trace is tried, and none is below the lower bound."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.random_policy import RandomPolicy
from vramtap.errors import VramtapError
from vramtap.pages import PageRuns
from vramtap.policy.costs import REFERENCE, Costs
from vramtap.policy.decide import CompareAlways, LogAlways, OnlinePolicy, Policy
from vramtap.trace import optimum as module
from vramtap.trace.optimum import Planned, optimum
from vramtap.trace.reference_policies import XenTwoSeconds
from vramtap.trace.replay import replay
from vramtap.trace.trace import Trace, TraceBuilder

# Small enough an extent that each choice is right for some trace.
COSTS = st.builds(
    Costs,
    fault_us=st.floats(0.0, 20.0),
    page_us=st.floats(0.1, 10.0),
    protect_us=st.floats(0.0, 60.0),
    look_us=st.floats(0.1, 60.0),
    arm_us=st.floats(0.0, 60.0),
    hand_over_us=st.floats(0.0, 20.0),
    held_us=st.floats(0.0, 20.0),
    guest_cost_factor=st.sampled_from([0.0, 1.0, 5.0]),
)
SLACK = 1 + 1e-9


def _trace(pages: int, written: list[set[int]]) -> Trace:
    builder = TraceBuilder(pages)
    for number, look in enumerate(written):
        builder.add((number + 1) * 16_666_667, PageRuns([(page, page + 1) for page in sorted(look)]))
    return builder.build({})


def _cheapest(trace: Trace, costs: Costs, tile_pages: int) -> float:
    """Every set of open tiles at each look, with every set of quiet looks to arm after."""
    looks, tiles = trace.intervals, len(trace.tiles(tile_pages))
    written = np.flatnonzero(np.diff(trace.starts))
    quiet = sorted(set(range(looks)) - set(written.tolist()))
    least = float("inf")
    for bits in itertools.product([False, True], repeat=looks * tiles):
        opened = np.array(bits, dtype=np.bool_).reshape(looks, tiles)
        for count in range(len(quiet) + 1):
            for armed in itertools.combinations(quiet, count):
                planned = Planned(opened, armed, written)
                least = min(least, replay(trace, planned, costs, tile_pages).total_us)
    return least


@settings(max_examples=15, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=5), COSTS)
def test_with_one_tile_of_one_page_the_bounds_are_the_optimum(written: list[bool], costs: Costs) -> None:
    """Nothing is shared and nothing left out: both bounds meet."""
    trace = _trace(1, [{0} if each else set() for each in written])
    best, least = optimum(trace, costs, 1), _cheapest(trace, costs, 1)
    assert best.lower_us == pytest.approx(least)
    assert best.upper_us == pytest.approx(least)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.sets(st.integers(0, 2)), min_size=1, max_size=3), COSTS, st.integers(0, 4))
def test_the_optimum_lies_between_the_bounds(written: list[set[int]], costs: Costs, rounds: int) -> None:
    trace = _trace(3, written)
    best, least = optimum(trace, costs, 2, rounds), _cheapest(trace, costs, 2)
    assert best.lower_us <= least * SLACK
    assert least <= best.upper_us * SLACK


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.sets(st.integers(0, 9)) | st.just(set()), min_size=1, max_size=60), COSTS, st.integers(0, 999)
)
def test_no_policy_that_looks_at_every_interval_is_below(
    written: list[set[int]], costs: Costs, seed: int
) -> None:
    trace = _trace(10, written)
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
def test_the_schedule_costs_what_it_says(written: list[set[int]], costs: Costs) -> None:
    trace = _trace(10, written)
    best = optimum(trace, costs, 3)
    planned = Planned(best.open, best.armed, np.flatnonzero(np.diff(trace.starts)))
    assert replay(trace, planned, costs, 3).total_us == pytest.approx(best.upper_us)
    assert not any(written[look] for look in best.armed)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sets(st.integers(0, 9)) | st.just(set()), min_size=1, max_size=60), COSTS)
def test_with_hypotheses_left_out_the_bound_is_lower_and_holds(written: list[set[int]], costs: Costs) -> None:
    trace = _trace(10, written)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_HYPOTHESES", 1)
        relaxed = optimum(trace, costs, 3, 0)
    full = optimum(trace, costs, 3, 0)
    assert relaxed.lower_us <= full.lower_us * SLACK
    assert relaxed.upper_us * SLACK >= full.lower_us


def test_a_long_gap_is_armed_and_a_short_one_is_not() -> None:
    written: list[set[int]] = [{0}, *[set()] * 10, {1}, *[set()] * 500, {2}, *[set()] * 500]
    best = optimum(_trace(64, written), REFERENCE, 16)
    assert best.armed == (12, 513)
    armings = 2 * REFERENCE.arming_us(64) + REFERENCE.waking_us(64)
    logged_us = REFERENCE.fault_us + REFERENCE.page_us + REFERENCE.protect_us
    # The second is opened, for arming protects it again anyway: twice its tile is less than the call.
    opened_us = REFERENCE.fault_us + 2 * 16 * REFERENCE.page_us
    expected_us = 14 * REFERENCE.look_us + armings + logged_us + opened_us
    assert best.upper_us == pytest.approx(expected_us)
    assert best.lower_us >= 0.9 * expected_us


def test_a_video_is_open_but_for_what_it_does_not_touch() -> None:
    best = optimum(_trace(64, [set(range(32))] * 50), REFERENCE, 16)
    assert best.open[:, :2].all()
    assert not best.open[:, 2:].any()
    assert best.lower_us == pytest.approx(50 * (60 + 32 * 1.6) + 32 * 0.75)


def test_two_tiles_that_are_hit_in_turn_share_nothing() -> None:
    """An equal split is far off where a tile pays alone; the bounds meet all the same."""
    costs = dataclasses.replace(REFERENCE, protect_us=40.0)
    written = [{0, 20} if look % 3 else {0} for look in range(60)]
    best = optimum(_trace(32, written), costs, 16)
    assert best.upper_us <= 1.02 * best.lower_us


def test_without_a_look_there_is_no_optimum() -> None:
    with pytest.raises(VramtapError, match="has no look"):
        optimum(TraceBuilder(3).build({}), REFERENCE, 2)
