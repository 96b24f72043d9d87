"""RandomPolicy: forces transitions at random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from vramtap.policy.decide import Counts, State

if TYPE_CHECKING:
    from vramtap.policy.costs import Costs


@dataclass(frozen=True, slots=True)
class _RandomState(State):
    scans: int = 0


class RandomPolicy:
    """Changes tiles and arms at random; the same seed gives the same transitions.

    Args:
        seed: Seed of the random numbers.
        turn: Probability that a tile changes its state at a scan.
        arm: Probability that the extent is armed after a scan that found nothing.
    """

    name: Final = "random"

    def __init__(self, seed: int, *, turn: float = 0.1, arm: float = 0.2) -> None:
        self._seed, self._turn, self._arm = seed, turn, arm

    def start(self, pages: Counts, costs: Costs) -> State:
        """See `Policy.start`."""
        return _RandomState(np.zeros(len(pages), dtype=np.bool_))

    def step(self, state: State, dirty: Counts) -> State:
        """See `Policy.step`."""
        scans = state.scans + 1 if isinstance(state, _RandomState) else 0
        random = np.random.default_rng((self._seed, scans))
        turned = state.unprotected ^ (random.random(len(state.unprotected)) < self._turn)
        arm = bool(random.random() < self._arm) and not dirty.any()
        return _RandomState(turned, armed=arm, scans=scans)

    def woken(self, state: State, slept_s: float | None = None) -> State:
        """See `Policy.woken`."""
        scans = state.scans if isinstance(state, _RandomState) else 0
        return _RandomState(np.zeros_like(state.unprotected), scans=scans)
