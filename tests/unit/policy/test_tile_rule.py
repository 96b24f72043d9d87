"""Two states a tile: the bound holds for any looks, the guard holds for any advice, and nothing flaps."""

from __future__ import annotations

import dataclasses
import math
import pickle
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.dense_tile_rule import DenseRule, DenseStates
from vramtap.policy.costs import REFERENCE, Costs
from vramtap.policy.tile_rule import Tile, TileRule, TileStates

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    guest_cost_factor=st.sampled_from([0.0, 0.1, 1.0, 10.0]),
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
        seen.append(seen[-1].scanned(_written([written])))
    return seen


def _written(look: Sequence[int]) -> dict[int, int]:
    return {number: pages for number, pages in enumerate(look) if pages}


def _tiles(states: TileStates) -> list[Tile]:
    return [states.tile(number) for number in range(len(states.unprotected))]


@settings(deadline=None)
@given(COSTS, LOOKS)
def test_the_work_function_rule_costs_four_times_the_optimum_at_most(costs: Costs, looks: list[int]) -> None:
    bill = _Bill(costs)
    seen = _run(TileStates.begin(_rule(costs)), looks)
    # The shares of one tile do not depend on its state, so the rule can be followed beside the adviser.
    for written, before, after in zip(looks, seen, seen[1:], strict=False):
        bill.look(written, before.tile(0).rule_unprotected, after.tile(0).rule_unprotected)
        assert bill.spent <= (4 * bill.cheapest + 2 * bill.cycle) * (1 + 1e-9)


@settings(deadline=None)
@given(COSTS, LOOKS, st.floats(0.001, 20.0), st.floats(0.0, 8.0), st.floats(0.01, 1.0))
def test_whatever_is_advised_the_bound_holds(
    costs: Costs, looks: list[int], patience: float, trust: float, margin: float
) -> None:
    bill = _Bill(costs)
    seen = _run(TileStates.begin(_rule(costs, 1, patience, margin, trust)), looks)
    for written, before, after in zip(looks, seen, seen[1:], strict=False):
        bill.look(written, bool(before.unprotected[0]), bool(after.unprotected[0]))
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
        is_open = before.tile(0).rule_unprotected
        dearer_than_other += max(0.0, opened - logged if is_open else logged - opened)
        if after.tile(0).rule_unprotected != is_open:
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
    opens = np.array([bool(states.unprotected[0]) for states in seen])
    changes = np.flatnonzero(opens[1:] != opens[:-1])
    # A patience doubles seven times at most from where it begins to where it ends.
    assert len(changes) <= 8
    assert all(changes < 150)


def test_a_video_is_opened_soon_and_what_rests_is_all_logged() -> None:
    video = _run(TileStates.begin(_rule(REFERENCE)), [PAGES] * 10)
    assert video[2].unprotected[0]
    rest = _run(video[-1], [0] * 60)
    assert not rest[-1].unprotected[0]
    assert rest[-1].settled
    assert not rest[1].settled


def test_a_tile_that_is_written_now_and_then_stays_logged() -> None:
    seen = _run(TileStates.begin(_rule(REFERENCE)), ([1] + [0] * 29) * 20)
    assert not any(states.unprotected[0] for states in seen)


def test_tiles_that_are_hit_together_share_the_call() -> None:
    """Alone the call makes opening right; shared by fifty it does not."""
    alone, many = TileStates.begin(_rule(REFERENCE)), TileStates.begin(_rule(REFERENCE, 50))
    for _ in range(50):
        alone, many = alone.scanned({0: 4}), many.scanned(dict.fromkeys(range(50), 4))
    assert alone.unprotected.all()
    assert not many.unprotected.any()


def test_tiles_are_closed_together() -> None:
    """Each of twenty has regretted a twentieth of the call when they close; one alone waits for all of it."""
    costs = dataclasses.replace(REFERENCE, protect_us=1000.0)
    alone, many = TileStates.begin(_rule(costs)), TileStates.begin(_rule(costs, 20))
    for _ in range(60):
        alone, many = alone.scanned({0: PAGES}), many.scanned(dict.fromkeys(range(20), PAGES))
    assert alone.unprotected.all()
    assert many.unprotected.all()

    def until_closed(states: TileStates) -> int:
        looks = 0
        while states.unprotected.any():
            states, looks = states.scanned({}), looks + 1
        return looks

    assert until_closed(many) < until_closed(alone)


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, PAGES), min_size=3, max_size=3), max_size=60))
def test_a_look_changes_nothing_it_was_given_and_says_the_same_twice(looks: list[list[int]]) -> None:
    states = TileStates.begin(_rule(REFERENCE, 3))
    for look in looks:
        written, before = _written(look), pickle.dumps(states)
        once, twice = states.scanned(written), states.scanned(written)
        assert written == _written(look)
        assert pickle.dumps(states) == before
        assert _tiles(once) == _tiles(twice)
        assert (
            once.unprotected.tolist()
            == twice.unprotected.tolist()
            == [tile.unprotected for tile in _tiles(once)]
        )
        assert (once.unprotected is states.unprotected) == (
            once.unprotected.tolist() == states.unprotected.tolist()
        )
        states = once


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, PAGES), min_size=3, max_size=3), max_size=60))
def test_settled_means_that_nothing_changes_any_more(looks: list[list[int]]) -> None:
    states = TileStates.begin(_rule(REFERENCE, 3))
    for look in looks:
        states = states.scanned(_written(look))
    for _ in range(400):
        if states.settled:
            break
        states = states.scanned({})
    assert states.settled
    assert states.scanned({}) is states


def test_after_a_waking_all_is_logged_and_what_was_learned_is_kept() -> None:
    states = TileStates.begin(_rule(REFERENCE, 3, patience=0.01))
    for written in ([PAGES] + [0] * 12) * 6:
        states = states.scanned(_written([written, 0, PAGES]))
    assert states.unprotected.any()
    again = states.all_logged()
    assert not again.unprotected.any()
    assert again.settled
    for before, after in zip(_tiles(states), _tiles(again), strict=True):
        assert (after.unprotected, after.rule_unprotected) == (False, False)
        assert (after.to_unprotect, after.to_log) == (before.to_unprotect, before.to_log)
        assert after.behind_us == before.behind_us
    assert states.tile(0).to_unprotect != again.rule.patience[0]


def test_a_waking_of_what_rests_changes_nothing() -> None:
    states = TileStates.begin(_rule(REFERENCE, 3))
    assert states.all_logged() is states


def test_what_goes_on_as_it_is_makes_nothing_new() -> None:
    """A video in an open tile, and a caret in a logged one that costs less than a compare."""
    costs = dataclasses.replace(REFERENCE, protect_us=1.0)
    states = TileStates.begin(_rule(costs, 3))
    for _ in range(100):
        states = states.scanned({0: PAGES, 2: 1})
    assert states.unprotected.tolist() == [True, False, False]
    assert states.scanned({0: PAGES, 2: 1}) is states


SIZES = st.lists(st.integers(1, 60), min_size=1, max_size=24)
# Most tiles rest, a few are written again and again, some go to and fro: runs for each tile on its own.
RUNS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.0, 0.05, 0.3, 1.0]), st.integers(1, 30)), min_size=1, max_size=5
)


@settings(deadline=None, max_examples=150)
@given(
    COSTS,
    SIZES,
    st.lists(RUNS, min_size=1, max_size=24),
    st.floats(0.001, 3.0),
    st.floats(0.001, 3.0),
    st.floats(0.01, 1.0),
    st.floats(0.0, 4.0),
    st.sets(st.integers(0, 149), max_size=3),
)
def test_it_decides_what_the_arrays_decide(
    costs: Costs,
    sizes: list[int],
    runs: list[list[tuple[float, int]]],
    patience: float,
    patience_closing: float,
    margin: float,
    trust: float,
    woken: set[int],
) -> None:
    pages = np.array(sizes, dtype=np.int64)
    told = (pages, costs, (patience, patience_closing), 8.0, margin, trust)
    states, dense = TileStates.begin(TileRule.of(*told)), DenseStates.begin(DenseRule.of(*told))
    looks = [_laid_out(runs[number % len(runs)], size) for number, size in enumerate(sizes)]
    for at, look in enumerate(zip(*looks, strict=True)):
        states, dense = states.scanned(_written(look)), dense.scanned(np.array(look, dtype=np.int64))
        if at in woken:
            states, dense = states.all_logged(), dense.all_logged()
        assert not dense.settled or states.settled
        assert states.unprotected.tolist() == dense.unprotected.tolist()
        assert states.numbers == set(np.flatnonzero(dense.unprotected).tolist())
        _same(_tiles(states), dense)


def _laid_out(runs: list[tuple[float, int]], size: int) -> list[int]:
    """150 looks at a tile of so many pages: the share of it written, over and over."""
    once = [math.ceil(share * size) for share, looks in runs for _ in range(looks)]
    return (once * (150 // len(once) + 1))[:150]


def _same(tiles: list[Tile], dense: DenseStates) -> None:
    for name in ("unprotected", "regret_us", "earned", "rule_unprotected", "ahead_us", "behind_us"):
        assert [getattr(tile, name) for tile in tiles] == getattr(dense, name).tolist(), name
    assert [tile.to_unprotect for tile in tiles] == dense.patience[0].tolist()
    assert [tile.to_log for tile in tiles] == dense.patience[1].tolist()
    # What is not counted on any more is not counted.
    gains = zip(tiles, dense.gain_us.tolist(), strict=True)
    assert all(tile.gain_us == gain for tile, gain in gains if not tile.earned)
