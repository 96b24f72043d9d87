"""Two states a tile: the bound holds for any looks, the guard holds for any advice, and nothing flaps."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vramtap.trackers.costs import REFERENCE, Costs
from vramtap.trackers.twostate import TileRule, TileStates

PAGES = 40
COSTS = st.builds(
    Costs,
    fault_us=st.floats(0.0, 5.0),
    page_us=st.floats(0.01, 5.0),
    protect_us=st.floats(0.0, 300.0),
    look_us=st.just(60.0),
    arm_us=st.just(230.0),
    hand_over_us=st.just(260.0),
    held_us=st.just(150.0),
    guest_weight=st.sampled_from([0.0, 0.1, 1.0, 10.0]),
)
# Runs of alike looks: single random ones hardly ever make a change worth while.
LOOKS = st.lists(st.tuples(st.integers(0, PAGES), st.integers(1, 40)), min_size=1, max_size=25).map(
    lambda runs: [written for written, looks in runs for _ in range(looks)]
)


def _rule(
    costs: Costs, tiles: int = 1, patience: float = 0.7, margin: float = 0.1, trust: float = 4.0
) -> TileRule:
    return TileRule.of(np.full(tiles, PAGES), costs, (patience, 0.1), 8.0, margin, trust)


def _prices(costs: Costs, written: int) -> tuple[float, float]:
    logged = written * (costs.fault_weighted_us + costs.page_us) + (costs.protect_us if written else 0.0)
    return logged, PAGES * costs.page_us


class _Bill:
    """What a sequence of states costs, and what the cheapest would: from the definition, in plain numbers."""

    def __init__(self, costs: Costs) -> None:
        self._costs = costs
        self.opening = PAGES * costs.fault_weighted_us
        self.closing = PAGES * costs.page_us + costs.protect_us
        self.cycle = self.opening + self.closing
        self.spent = 0.0
        self._logged, self._open = 0.0, self.opening

    def look(self, written: int, was_open: bool, is_open: bool) -> None:
        logged, opened = _prices(self._costs, written)
        self.spent += opened if was_open else logged
        if was_open != is_open:
            self.spent += self.opening if is_open else self.closing
        stay_logged, stay_open = self._logged + logged, self._open + opened
        self._logged = min(stay_logged, stay_open + self.closing)
        self._open = min(stay_open, stay_logged + self.opening)

    @property
    def cheapest(self) -> float:
        return min(self._logged, self._open)


def _run(states: TileStates, looks: list[int]) -> list[TileStates]:
    seen = [states]
    for written in looks:
        seen.append(seen[-1].look(np.array([written])))
    return seen


@settings(deadline=None)
@given(COSTS, LOOKS)
def test_the_work_function_rule_costs_four_times_the_optimum_at_most(costs: Costs, looks: list[int]) -> None:
    bill = _Bill(costs)
    seen = _run(TileStates.begin(_rule(costs)), looks)
    # The shares of one tile do not depend on its state, so the rule can be followed beside the adviser.
    for written, before, after in zip(looks, seen, seen[1:], strict=False):
        bill.look(written, bool(before.rule_open[0]), bool(after.rule_open[0]))
        assert bill.spent <= (4 * bill.cheapest + 2 * bill.cycle) * (1 + 1e-9)


@settings(deadline=None)
@given(COSTS, LOOKS, st.floats(0.001, 20.0), st.floats(0.0, 8.0), st.floats(0.01, 1.0))
def test_whatever_is_advised_the_bound_holds(
    costs: Costs, looks: list[int], patience: float, trust: float, margin: float
) -> None:
    bill = _Bill(costs)
    seen = _run(TileStates.begin(_rule(costs, 1, patience, margin, trust)), looks)
    for written, before, after in zip(looks, seen, seen[1:], strict=False):
        bill.look(written, bool(before.open[0]), bool(after.open[0]))
        bound = (1 + margin) * (4 * bill.cheapest + 2 * bill.cycle) + (trust + 2) * bill.cycle
        assert bill.spent <= bound * (1 + 1e-9)


@settings(deadline=None)
@given(COSTS, LOOKS)
def test_the_rule_changes_only_when_a_cycle_has_been_paid_for_it(costs: Costs, looks: list[int]) -> None:
    seen = _run(TileStates.begin(_rule(costs)), looks)
    cycle = PAGES * (costs.fault_weighted_us + costs.page_us) + costs.protect_us
    dearer_than_other = 0.0
    for written, before, after in zip(looks, seen, seen[1:], strict=False):
        logged, opened = _prices(costs, written)
        is_open = bool(before.rule_open[0])
        dearer_than_other += max(0.0, opened - logged if is_open else logged - opened)
        if bool(after.rule_open[0]) != is_open:
            assert dearer_than_other >= cycle * (1 - 1e-9)
            dearer_than_other = 0.0


@pytest.mark.parametrize("protect_us", [20.0, 200.0])
@pytest.mark.parametrize(
    "pattern",
    [[PAGES, 0], [PAGES, PAGES, 0], 3 * [PAGES] + [0], [1, 0], [2] + 5 * [0], [PAGES] + 30 * [0], [8, 0, 0]],
    ids=str,
)
def test_what_goes_on_alike_is_left_alone_after_a_few_changes(pattern: list[int], protect_us: float) -> None:
    """Logged or open, either may be right; to and fro is not."""
    costs = dataclasses.replace(REFERENCE, protect_us=protect_us)
    seen = _run(TileStates.begin(_rule(costs)), pattern * 300)
    opens = np.array([bool(states.open[0]) for states in seen])
    changes = np.flatnonzero(opens[1:] != opens[:-1])
    # A patience doubles seven times at most from where it begins to where it ends.
    assert len(changes) <= 8
    assert all(changes < 150)


def test_a_video_is_opened_soon_and_what_rests_is_logged_again() -> None:
    video = _run(TileStates.begin(_rule(REFERENCE)), [PAGES] * 10)
    assert video[2].open[0]
    rest = _run(video[-1], [0] * 60)
    assert not rest[-1].open[0]
    assert rest[-1].settled
    assert not rest[1].settled


def test_a_tile_that_is_written_now_and_then_stays_logged() -> None:
    seen = _run(TileStates.begin(_rule(REFERENCE)), ([1] + [0] * 29) * 20)
    assert not any(states.open[0] for states in seen)


def test_tiles_that_are_hit_together_share_the_call() -> None:
    """Alone the call makes opening right; shared by fifty it does not."""
    alone, many = TileStates.begin(_rule(REFERENCE)), TileStates.begin(_rule(REFERENCE, 50))
    for _ in range(50):
        alone, many = alone.look(np.array([4])), many.look(np.full(50, 4))
    assert alone.open.all()
    assert not many.open.any()


def test_tiles_are_closed_together() -> None:
    """Each of twenty has regretted a twentieth of the call when they close; one alone waits for all of it."""
    costs = dataclasses.replace(REFERENCE, protect_us=1000.0)
    alone, many = TileStates.begin(_rule(costs)), TileStates.begin(_rule(costs, 20))
    for _ in range(60):
        alone, many = alone.look(np.array([PAGES])), many.look(np.full(20, PAGES))
    assert alone.open.all()
    assert many.open.all()

    def until_closed(states: TileStates) -> int:
        looks = 0
        while states.open.any():
            states, looks = states.look(np.zeros(len(states.open), dtype=np.int64)), looks + 1
        return looks

    assert until_closed(many) < until_closed(alone)


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, PAGES), min_size=3, max_size=3), max_size=60))
def test_a_look_changes_nothing_it_was_given_and_says_the_same_twice(looks: list[list[int]]) -> None:
    states = TileStates.begin(_rule(REFERENCE, 3))
    for written in looks:
        dirty = np.array(written, dtype=np.int64)
        before = _copies(states)
        once, twice = states.look(dirty), states.look(dirty)
        assert dirty.tolist() == written
        _same(_copies(states), before)
        _same(_copies(once), _copies(twice))
        states = once


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, PAGES), min_size=3, max_size=3), max_size=60))
def test_settled_means_that_nothing_changes_any_more(looks: list[list[int]]) -> None:
    states = TileStates.begin(_rule(REFERENCE, 3))
    nothing = np.zeros(3, dtype=np.int64)
    for written in looks:
        states = states.look(np.array(written))
    for _ in range(400):
        if states.settled:
            break
        states = states.look(nothing)
    assert states.settled
    after, decided = _copies(states.look(nothing)), _copies(states)
    # What a stay has gained goes on growing; it counts only until it is a cycle.
    for name in ("gain_us", "behind_us"):
        del after[name], decided[name]
    _same(after, decided)


def test_after_a_waking_all_is_logged_and_what_was_learned_is_kept() -> None:
    states = TileStates.begin(_rule(REFERENCE, 3))
    for written in ([PAGES] * 6 + [0] * 12) * 6:
        states = states.look(np.array([written, 0, PAGES]))
    assert states.open.any()
    again = states.logged_again()
    assert not again.open.any()
    assert not again.rule_open.any()
    assert np.array_equal(again.patience, states.patience)


def _copies(states: TileStates) -> dict[str, NDArray[np.float64]]:
    arrays = {field.name: getattr(states, field.name) for field in dataclasses.fields(states)}
    return {name: value.copy() for name, value in arrays.items() if isinstance(value, np.ndarray)}


def _same(left: dict[str, NDArray[np.float64]], right: dict[str, NDArray[np.float64]]) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        np.testing.assert_array_equal(value, right[name], name)
