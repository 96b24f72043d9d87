"""A policy that forces transitions at random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from vramtap.policy.decide import Counts, State

if TYPE_CHECKING:
    from vramtap.policy.costs import Costs


@dataclass(frozen=True, slots=True)
class _RandomState(State):
    polls: int = 0


class RandomPolicy:
    """Changes the state of tiles and arms at random, the same for the same seed and number of polls.

    Args:
        seed: Seed of the random numbers.
        turn: Chance that a tile changes its state at a poll.
        arm: Chance that the extent is armed at a poll that found nothing.
    """

    name: Final = "random"

    def __init__(self, seed: int, *, turn: float = 0.1, arm: float = 0.2) -> None:
        self._seed, self._turn, self._arm = seed, turn, arm

    def start(self, pages: Counts, costs: Costs) -> State:
        return _RandomState(np.zeros(len(pages), dtype=np.bool_))

    def step(self, state: State, dirty: Counts) -> State:
        polls = state.polls + 1 if isinstance(state, _RandomState) else 0
        random = np.random.default_rng((self._seed, polls))
        turned = state.open ^ (random.random(len(state.open)) < self._turn)
        arm = bool(random.random() < self._arm) and not dirty.any()
        return _RandomState(turned, armed=arm, polls=polls)

    def woken(self, state: State, slept_s: float | None = None) -> State:
        polls = state.polls if isinstance(state, _RandomState) else 0
        return _RandomState(np.zeros(len(state.open), dtype=np.bool_), polls=polls)
