"""The rule for tiles: the bounds hold for any scans and any adviser, and tiles do not flap."""

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
    scan_us=st.just(60.0),
    arm_us=st.just(230.0),
    hand_over_us=st.just(260.0),
    held_us=st.just(150.0),
    guest_cost_factor=st.sampled_from([0.0, 0.1, 1.0, 10.0]),
)
# Runs of equal scans: single random ones hardly ever make a change pay.
SCANS = st.lists(st.tuples(st.integers(0, PAGES), st.integers(1, 40)), min_size=1, max_size=25).map(
    lambda runs: [written for written, scans in runs for _ in range(scans)]
)


def _rule(
    costs: Costs, tiles: int = 1, patience: float = 0.7, margin: float = 0.1, trust: float = 4.0
) -> TileRule:
    return TileRule.of(np.full(tiles, PAGES), costs, (patience, 0.1), 8.0, margin, trust)


def _prices(costs: Costs, written: int) -> tuple[float, float]:
    logged = written * (costs.fault_weighted_us + costs.page_us) + (costs.protect_us if written else 0.0)
    return logged, PAGES * costs.page_us


class _Bill:
    """Cost of a sequence of states, and of the cheapest one, computed from the definition."""

    def __init__(self, costs: Costs) -> None:
        self._costs = costs
        self.opening = PAGES * costs.fault_weighted_us
        self.closing = PAGES * costs.page_us + costs.protect_us
        self.cycle = self.opening + self.closing
        self.spent = 0.0
        self._logged, self._open = 0.0, self.opening

    def add(self, written: int, *, was_unprotected: bool, is_unprotected: bool) -> None:
        logged, opened = _prices(self._costs, written)
        self.spent += opened if was_unprotected else logged
        if was_unprotected != is_unprotected:
            self.spent += self.opening if is_unprotected else self.closing
        stay_logged, stay_open = self._logged + logged, self._open + opened
        self._logged = min(stay_logged, stay_open + self.closing)
        self._open = min(stay_open, stay_logged + self.opening)

    @property
    def cheapest(self) -> float:
        return min(self._logged, self._open)


def _run(states: TileStates, scans: list[int]) -> list[TileStates]:
    seen = [states]
    for written in scans:
        seen.append(seen[-1].scanned(_written([written])))
    return seen


def _written(scan: Sequence[int]) -> dict[int, int]:
    return {number: pages for number, pages in enumerate(scan) if pages}


def _tiles(states: TileStates) -> list[Tile]:
    return [states.tile(number) for number in range(len(states.unprotected))]


@settings(deadline=None)
@given(COSTS, SCANS)
def test_work_function_rule_costs_at_most_four_times_the_optimum(costs: Costs, scans: list[int]) -> None:
    bill = _Bill(costs)
    seen = _run(TileStates.begin(_rule(costs)), scans)
    # The shares of one tile do not depend on its state, so the test can follow the rule without the adviser.
    for written, before, after in zip(scans, seen, seen[1:], strict=False):
        was, now = before.tile(0).rule_unprotected, after.tile(0).rule_unprotected
        bill.add(written, was_unprotected=was, is_unprotected=now)
        assert bill.spent <= (4 * bill.cheapest + 2 * bill.cycle) * (1 + 1e-9)


@settings(deadline=None)
@given(COSTS, SCANS, st.floats(0.001, 20.0), st.floats(0.0, 8.0), st.floats(0.01, 1.0))
def test_bound_holds_for_any_adviser(
    costs: Costs, scans: list[int], patience: float, trust: float, margin: float
) -> None:
    bill = _Bill(costs)
    seen = _run(TileStates.begin(_rule(costs, 1, patience, margin, trust)), scans)
    for written, before, after in zip(scans, seen, seen[1:], strict=False):
        was, now = bool(before.unprotected[0]), bool(after.unprotected[0])
        bill.add(written, was_unprotected=was, is_unprotected=now)
        bound = (1 + margin) * (4 * bill.cheapest + 2 * bill.cycle) + (trust + 2) * bill.cycle
        assert bill.spent <= bound * (1 + 1e-9)


@settings(deadline=None)
@given(COSTS, SCANS)
def test_rule_pays_a_cycle_before_each_change(costs: Costs, scans: list[int]) -> None:
    seen = _run(TileStates.begin(_rule(costs)), scans)
    cycle = PAGES * (costs.fault_weighted_us + costs.page_us) + costs.protect_us
    dearer_than_other = 0.0
    for written, before, after in zip(scans, seen, seen[1:], strict=False):
        logged, opened = _prices(costs, written)
        is_unprotected = before.tile(0).rule_unprotected
        dearer_than_other += max(0.0, opened - logged if is_unprotected else logged - opened)
        if after.tile(0).rule_unprotected != is_unprotected:
            assert dearer_than_other >= cycle * (1 - 1e-9)
            dearer_than_other = 0.0


@pytest.mark.parametrize("protect_us", [20.0, 200.0])
@pytest.mark.parametrize(
    "pattern",
    [[PAGES, 0], [PAGES, PAGES, 0], 3 * [PAGES] + [0], [1, 0], [2] + 5 * [0], [PAGES] + 30 * [0], [8, 0, 0]],
    ids=str,
)
def test_steady_pattern_changes_a_tile_a_few_times_only(pattern: list[int], protect_us: float) -> None:
    """Logged or unprotected may be right; flapping is not."""
    costs = dataclasses.replace(REFERENCE, protect_us=protect_us)
    seen = _run(TileStates.begin(_rule(costs)), pattern * 300)
    unprotected = np.array([bool(states.unprotected[0]) for states in seen])
    changes = np.flatnonzero(unprotected[1:] != unprotected[:-1])
    # A patience doubles at most seven times between its limits.
    assert len(changes) <= 8
    assert all(changes < 150)


def test_a_video_is_unprotecteded_soon_and_what_rests_is_all_logged() -> None:
    video = _run(TileStates.begin(_rule(REFERENCE)), [PAGES] * 10)
    assert video[2].unprotected[0]
    rest = _run(video[-1], [0] * 60)
    assert not rest[-1].unprotected[0]
    assert rest[-1].settled
    assert not rest[1].settled


def test_rarely_written_tile_stays_logged() -> None:
    seen = _run(TileStates.begin(_rule(REFERENCE)), ([1] + [0] * 29) * 20)
    assert not any(states.unprotected[0] for states in seen)


def test_tiles_written_together_share_the_call() -> None:
    """A tile that pays the whole call becomes unprotected; one of fifty that share it does not."""
    alone, many = TileStates.begin(_rule(REFERENCE)), TileStates.begin(_rule(REFERENCE, 50))
    for _ in range(50):
        alone, many = alone.scanned({0: 4}), many.scanned(dict.fromkeys(range(50), 4))
    assert alone.unprotected.all()
    assert not many.unprotected.any()


def test_tiles_become_logged_together() -> None:
    """Each of twenty tiles needs a twentieth of the call in regret; a single tile needs all of it."""
    costs = dataclasses.replace(REFERENCE, protect_us=1000.0)
    alone, many = TileStates.begin(_rule(costs)), TileStates.begin(_rule(costs, 20))
    for _ in range(60):
        alone, many = alone.scanned({0: PAGES}), many.scanned(dict.fromkeys(range(20), PAGES))
    assert alone.unprotected.all()
    assert many.unprotected.all()

    def scans_until_logged(states: TileStates) -> int:
        scans = 0
        while states.unprotected.any():
            states, scans = states.scanned({}), scans + 1
        return scans

    assert scans_until_logged(many) < scans_until_logged(alone)


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, PAGES), min_size=3, max_size=3), max_size=60))
def test_scanned_is_pure_and_deterministic(scans: list[list[int]]) -> None:
    states = TileStates.begin(_rule(REFERENCE, 3))
    for scan in scans:
        written, before = _written(scan), pickle.dumps(states)
        once, twice = states.scanned(written), states.scanned(written)
        assert written == _written(scan)
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
def test_settled_states_do_not_change(scans: list[list[int]]) -> None:
    states = TileStates.begin(_rule(REFERENCE, 3))
    for scan in scans:
        states = states.scanned(_written(scan))
    for _ in range(400):
        if states.settled:
            break
        states = states.scanned({})
    assert states.settled
    assert states.scanned({}) is states


def test_all_logged_keeps_the_adapted_patience() -> None:
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


def test_all_logged_of_resting_tiles_returns_the_same_states() -> None:
    states = TileStates.begin(_rule(REFERENCE, 3))
    assert states.all_logged() is states


def test_steady_tiles_return_the_same_states() -> None:
    """A video in an unprotected tile, and a caret in a logged one that costs less than a compare."""
    costs = dataclasses.replace(REFERENCE, protect_us=1.0)
    states = TileStates.begin(_rule(costs, 3))
    for _ in range(100):
        states = states.scanned({0: PAGES, 2: 1})
    assert states.unprotected.tolist() == [True, False, False]
    assert states.scanned({0: PAGES, 2: 1}) is states


SIZES = st.lists(st.integers(1, 60), min_size=1, max_size=24)
# Most tiles rest, a few are written often, some alternate: runs for each tile.
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
def test_rule_matches_the_dense_reference(
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
    arguments = (pages, costs, (patience, patience_closing), 8.0, margin, trust)
    states, dense = TileStates.begin(TileRule.of(*arguments)), DenseStates.begin(DenseRule.of(*arguments))
    scans = [_laid_out(runs[number % len(runs)], size) for number, size in enumerate(sizes)]
    for at, scan in enumerate(zip(*scans, strict=True)):
        states, dense = states.scanned(_written(scan)), dense.scanned(np.array(scan, dtype=np.int64))
        if at in woken:
            states, dense = states.all_logged(), dense.all_logged()
        assert not dense.settled or states.settled
        assert states.unprotected.tolist() == dense.unprotected.tolist()
        assert states.numbers == set(np.flatnonzero(dense.unprotected).tolist())
        _same(_tiles(states), dense)


def _laid_out(runs: list[tuple[float, int]], size: int) -> list[int]:
    """Return 150 scans of a tile: the runs' shares of written pages, repeated."""
    once = [math.ceil(share * size) for share, scans in runs for _ in range(scans)]
    return (once * (150 // len(once) + 1))[:150]


def _same(tiles: list[Tile], dense: DenseStates) -> None:
    for name in ("unprotected", "regret_us", "earned", "rule_unprotected", "ahead_us", "behind_us"):
        assert [getattr(tile, name) for tile in tiles] == getattr(dense, name).tolist(), name
    assert [tile.to_unprotect for tile in tiles] == dense.patience[0].tolist()
    assert [tile.to_log for tile in tiles] == dense.patience[1].tolist()
    # The gain is not counted once it is earned.
    gains = zip(tiles, dense.gain_us.tolist(), strict=True)
    assert all(tile.gain_us == gain for tile, gain in gains if not tile.earned)
