"""Policy: which tiles to log, which to leave open, when to arm; functions of what was seen and measured."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from vramtap.trackers.costs import Costs

Tiles = NDArray[np.bool_]
Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class State:
    """What a policy has decided, for the next look.

    Args:
        open: Shape `(tiles,)`: not protected, and compared at every look; the others are logged. Not written
            to once handed out. A tile that was open and is not any more is protected again and read as a
            whole at the next look.
        armed: Arm now: everything is protected and nobody looks until the first write.
        rest_s: At least so long until the next look, seconds; 0.0 is the tap's own interval.
    """

    open: Tiles
    armed: bool = False
    rest_s: float = 0.0


class Policy(Protocol):
    """Decides after every look. Pure: no method changes the policy or the state it is given."""

    @property
    def name(self) -> str:
        """What the command line calls it."""
        ...

    def start(self, pages: Counts, costs: Costs) -> State:
        """The first decision, when everything is protected and was read once.

        Args:
            pages: Of each tile, shape `(tiles,)`, each at least 1.
            costs: Measured on this target.
        """
        ...

    def step(self, state: State, dirty: Counts) -> State:
        """The decision after a look.

        Args:
            state: The last one this policy gave. If it says armed, the arming was not carried out.
            dirty: Pages found written (logged tile) or changed (open tile), shape `(tiles,)`.
        """
        ...

    def woken(self, state: State, slept_s: float | None = None) -> State:
        """The decision after the first write to an armed extent: all tiles logged, not armed.

        Args:
            state: The last one this policy gave.
            slept_s: For how long the extent was armed, seconds; None if nobody knows.
        """
        ...


def _closed(tiles: int) -> Tiles:
    return np.zeros(tiles, dtype=np.bool_)


class LogAlways:
    """Every tile logged, never armed."""

    name: Final = "log"

    def start(self, pages: Counts, costs: Costs) -> State:
        """See `Policy.start`."""
        return State(_closed(len(pages)))

    def step(self, state: State, dirty: Counts) -> State:
        """See `Policy.step`."""
        return state

    def woken(self, state: State, slept_s: float | None = None) -> State:
        """See `Policy.woken`."""
        return dataclasses.replace(state, armed=False)


class CompareAlways:
    """Every tile open, never armed."""

    name: Final = "compare"

    def start(self, pages: Counts, costs: Costs) -> State:
        """See `Policy.start`."""
        return State(np.ones(len(pages), dtype=np.bool_))

    def step(self, state: State, dirty: Counts) -> State:
        """See `Policy.step`."""
        return state

    def woken(self, state: State, slept_s: float | None = None) -> State:
        """See `Policy.woken`."""
        return dataclasses.replace(state, armed=False)


@dataclass(frozen=True, slots=True)
class _RandomState(State):
    looks: int = 0


class RandomPolicy:
    """Forces transitions at random, for tests; the same ones for the same seed and number of looks.

    Args:
        seed: Of the random numbers.
        turn: Chance that a tile changes its state at a look.
        arm: Chance that the extent is armed at a look that found nothing.
    """

    name: Final = "random"

    def __init__(self, seed: int, *, turn: float = 0.1, arm: float = 0.2) -> None:
        self._seed, self._turn, self._arm = seed, turn, arm

    def start(self, pages: Counts, costs: Costs) -> State:
        """See `Policy.start`."""
        return _RandomState(_closed(len(pages)))

    def step(self, state: State, dirty: Counts) -> State:
        """See `Policy.step`."""
        looks = state.looks + 1 if isinstance(state, _RandomState) else 0
        random = np.random.default_rng((self._seed, looks))
        turned = state.open ^ (random.random(len(state.open)) < self._turn)
        arm = bool(random.random() < self._arm) and not dirty.any()
        return _RandomState(turned, armed=arm, looks=looks)

    def woken(self, state: State, slept_s: float | None = None) -> State:
        """See `Policy.woken`."""
        looks = state.looks if isinstance(state, _RandomState) else 0
        return _RandomState(_closed(len(state.open)), looks=looks)


@dataclass(frozen=True, slots=True)
class Parameters:
    """Of `OnlinePolicy`.

    Args:
        tile_pages: Pages of a tile; for whoever cuts the extent into tiles.
        patience: A tile changes its state when the other would have been cheaper by so many times what
            changing to and fro costs.
        arm_after: The extent is armed when as much was spent on looks that found nothing as so many armings
            with their wakings cost.
        arms: Whether it arms at all.
    """

    tile_pages: int = 16
    patience: float = 1.0
    arm_after: float = 1.0
    arms: bool = True


@dataclass(frozen=True, slots=True)
class _Rule:
    """What start() worked out, the same for all looks."""

    pages: NDArray[np.float64]
    read_us: NDArray[np.float64]
    """The whole of each tile."""
    lowest_us: NDArray[np.float64]
    highest_us: NDArray[np.float64]
    written_us: float
    """A page written: the fault and the reading."""
    protect_us: float
    look_us: float
    arm_at_us: float


@dataclass(frozen=True, slots=True)
class _OnlineState(State):
    rule: _Rule | None = None
    ahead_us: NDArray[np.float64] | None = None
    rent_us: float = 0.0
    settled: bool = False


class OnlinePolicy:
    """Ours: a two-state task system for each tile, ski rental for the arming.

    Args:
        parameters: Tuned on traces.
    """

    name: Final = "ours"

    def __init__(self, parameters: Parameters | None = None) -> None:
        self.parameters = parameters or Parameters()

    def start(self, pages: Counts, costs: Costs) -> State:
        """See `Policy.start`."""
        sizes = pages.astype(np.float64)
        read_us = sizes * costs.page_us
        opening_us = sizes * costs.fault_weighted_us
        closing_us = read_us + costs.protect_us
        total = int(pages.sum())
        rule = _Rule(
            sizes,
            read_us,
            -self.parameters.patience * opening_us,
            self.parameters.patience * closing_us,
            costs.fault_weighted_us + costs.page_us,
            costs.protect_us,
            costs.look_us,
            self.parameters.arm_after * (costs.arming_us(total) + costs.waking_us(total)),
        )
        return _OnlineState(_closed(len(pages)), rule=rule, ahead_us=rule.lowest_us, settled=True)

    def step(self, state: State, dirty: Counts) -> State:
        """See `Policy.step`."""
        assert isinstance(state, _OnlineState)
        assert state.rule is not None
        assert state.ahead_us is not None
        rule, seen = state.rule, bool(dirty.any())
        if seen:
            rent_us = 0.0
        else:
            rent_us = (0.0 if state.armed else state.rent_us) + rule.look_us
            if self.parameters.arms and rent_us >= rule.arm_at_us:
                return _OnlineState(state.open, True, 0.0, rule, state.ahead_us, rent_us, state.settled)
            if state.settled:
                return _OnlineState(state.open, False, 0.0, rule, state.ahead_us, rent_us, True)
        hit = dirty > 0
        logged_hit = int(np.count_nonzero(hit & ~state.open))
        share = np.where(state.open, rule.protect_us / (logged_hit + 1), rule.protect_us / max(logged_hit, 1))
        ahead = state.ahead_us + dirty * rule.written_us + np.where(hit, share, 0.0) - rule.read_us
        ahead = np.clip(ahead, rule.lowest_us, rule.highest_us)
        opened = (state.open & (ahead > rule.lowest_us)) | (ahead >= rule.highest_us)
        settled = not seen and bool((ahead == rule.lowest_us).all())
        return _OnlineState(opened, False, 0.0, rule, ahead, rent_us, settled)

    def woken(self, state: State, slept_s: float | None = None) -> State:
        """See `Policy.woken`."""
        assert isinstance(state, _OnlineState)
        assert state.rule is not None
        rule = state.rule
        return _OnlineState(_closed(len(state.open)), rule=rule, ahead_us=rule.lowest_us, settled=True)
