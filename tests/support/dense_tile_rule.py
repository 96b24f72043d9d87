"""Reference for `vramtap.policy.tile_rule`: the same rule with arrays, closer to its definition.

It must decide the same. It is slower for few tiles.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from vramtap.policy.costs import Costs

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class DenseRule:
    """The constant part; arrays of shape `(tiles,)`, microseconds. See `TilePrices` and `TileRule`.

    Args:
        read_us: Reading the whole tile.
        unprotect_us: D_unprotect, the change from logged to unprotected.
        lowest_us: -D_unprotect, the least value of d.
        log_us: D_log, the change from unprotected to logged.
        cycle_us: C, both changes.
        own_us: C without the call.
        written_us: A written page of a logged tile.
        protect_us: The call.
        patience: Initial patience of the adviser for becoming unprotected and logged, in cycles.
        most: Highest patience.
        margin: How much more than the rule the adviser may spend, as a share.
        trust_us: How far the adviser may be behind the rule.
    """

    read_us: Floats
    unprotect_us: Floats
    lowest_us: Floats
    log_us: Floats
    cycle_us: Floats
    own_us: Floats
    written_us: float
    protect_us: float
    patience: tuple[float, float]
    most: float
    margin: float
    trust_us: Floats

    @classmethod
    def of(
        cls,
        pages: NDArray[np.int64],
        costs: Costs,
        patience: tuple[float, float],
        most: float,
        margin: float,
        trust: float,
    ) -> Self:
        """Return the rule for a target, for tiles of `pages` pages."""
        sizes: Floats = pages.astype(np.float64)
        read_us, unprotect_us = sizes * costs.page_us, sizes * costs.fault_weighted_us
        log_us = read_us + costs.protect_us
        cycle_us = unprotect_us + log_us
        written_us = costs.fault_weighted_us + costs.page_us
        return cls(
            read_us,
            unprotect_us,
            -unprotect_us,
            log_us,
            cycle_us,
            read_us + unprotect_us,
            written_us,
            costs.protect_us,
            patience,
            most,
            margin,
            trust * cycle_us,
        )


@dataclass(frozen=True, slots=True)
class DenseStates:
    """States of all tiles; arrays of shape `(tiles,)`, never changed. See `Tile`.

    Args:
        rule: The constant part.
        unprotected: Which tiles are unprotected.
        regret_us: How much cheaper the other state would have been, since this was last 0.
        gain_us: How much cheaper this state has been since it was entered.
        earned: Whether the gain has ever been C.
        patience: Patience for becoming unprotected and logged, shape `(2, tiles)`.
        rule_unprotected: Which tiles would be unprotected by the work-function rule.
        ahead_us: The rule's d.
        behind_us: What was spent beyond the allowance.
        together: Whether rule and adviser agree on every tile, and no tile is behind.
        settled: Whether scans that find nothing change nothing any more.
    """

    rule: DenseRule
    unprotected: Flags
    regret_us: Floats
    gain_us: Floats
    earned: Flags
    patience: Floats
    rule_unprotected: Flags
    ahead_us: Floats
    behind_us: Floats
    together: bool
    settled: bool

    @classmethod
    def begin(cls, rule: DenseRule) -> Self:
        """Return the initial state: all tiles logged."""
        tiles = len(rule.read_us)
        none, nothing = np.zeros(tiles, dtype=np.bool_), np.zeros(tiles)
        patience = np.repeat(np.array(rule.patience)[:, None], tiles, axis=1)
        return cls(rule, none, nothing, nothing, ~none, patience, none, rule.lowest_us, nothing, True, True)

    def all_logged(self) -> Self:
        """Return the state after a waking: all tiles logged, with the adapted patience."""
        begun = self.begin(self.rule)
        return type(self)(
            self.rule,
            begun.unprotected,
            begun.regret_us,
            begun.gain_us,
            begun.earned,
            self.patience,
            begun.rule_unprotected,
            begun.ahead_us,
            self.behind_us,
            not self.behind_us.any(),
            True,
        )

    def scanned(self, dirty: NDArray[np.int64]) -> Self:
        """Return the state after a scan.

        Args:
            dirty: Pages of each tile found written or changed.
        """
        rule, was = self.rule, self.unprotected
        written = dirty > 0
        logged = int(np.count_nonzero(written > was))
        any_unprotected = bool(was.any())
        share: Floats | float = rule.protect_us / max(logged, 1)
        if any_unprotected:
            share = np.where(was, rule.protect_us / (logged + 1), share)
        # How much more the scan cost logged than unprotected.
        dearer: Floats = dirty.astype(np.float64)
        dearer *= rule.written_us
        dearer += written * share
        dearer -= rule.read_us
        worse = np.where(was, -dearer, dearer) if any_unprotected else dearer
        regret = np.maximum(self.regret_us + worse, 0.0)
        gain = self.gain_us - worse
        earned = self.earned | (gain >= rule.cycle_us)
        unprotecting, logging = self._advice(regret, max(logged, 1), any_unprotected)
        changing = unprotecting | logging if any_unprotected else unprotecting
        change = bool(changing.any())
        ahead = np.minimum(np.maximum(self.ahead_us + dearer, rule.lowest_us), rule.log_us)
        rule_unprotected = (ahead >= rule.log_us) | (self.rule_unprotected & (ahead > rule.lowest_us))
        patience, behind, together = (
            self.patience,
            self.behind_us,
            self.together and not change and bool((rule_unprotected == was).all()),
        )
        now: Flags = was ^ changing if change else was
        if not together:
            behind = self._behind(dearer, rule_unprotected)
            distrusted = behind > rule.trust_us
            if distrusted.any():
                now = np.where(distrusted, rule_unprotected, now)
                changing = was ^ now
                change = bool(changing.any())
        if change:
            # Whether the rule or the adviser changes the tile: the stay that ends was the adviser's.
            patience = _adapt(rule, patience, earned, changing & now, changing & was)
            behind += changing * np.where(now, rule.unprotect_us, rule.log_us)
            regret[changing] = 0.0
            gain[changing] = 0.0
            earned &= ~changing
        if not together:
            np.maximum(behind, 0.0, out=behind)
            together = not behind.any() and bool((rule_unprotected == now).all())
        # Only a scan that finds nothing can lead to a settled state.
        settled = not (logged or any_unprotected or now.any() or rule_unprotected.any() or regret.any())
        settled = settled and bool(earned.all() and (ahead == rule.lowest_us).all())
        return type(self)(
            rule, now, regret, gain, earned, patience, rule_unprotected, ahead, behind, together, settled
        )

    def _advice(self, regret: Floats, logged: int, any_unprotected: bool) -> tuple[Flags, Flags]:
        """Return which tiles become unprotected and which logged, by their patience."""
        rule, (to_unprotect, to_log), was = self.rule, self.patience, self.unprotected
        unprotecting = (regret >= to_unprotect * (rule.own_us + rule.protect_us / logged)) & ~was
        if not any_unprotected:
            return unprotecting, was
        # Regret beyond the tile's own part of C counts towards a call.
        calls_us = regret / to_log - rule.own_us
        ready = (calls_us >= 0) & was
        return unprotecting, ready if math.fsum(calls_us[ready]) >= rule.protect_us else np.zeros_like(was)

    def _behind(self, dearer: Floats, rule_unprotected: Flags) -> Floats:
        """Return what was spent beyond the allowance: by this scan, and less the rule's own changes."""
        rule = self.rule
        differ = np.subtract(self.rule_unprotected, self.unprotected, dtype=np.float64)
        its = rule.read_us + np.where(self.rule_unprotected, 0.0, dearer)
        behind: Floats = self.behind_us + dearer * differ - rule.margin * its
        changed = rule_unprotected != self.rule_unprotected
        if changed.any():
            behind -= changed * np.where(rule_unprotected, rule.unprotect_us, rule.log_us) * (1 + rule.margin)
        return behind


def _adapt(rule: DenseRule, patience: Floats, earned: Flags, unprotecting: Flags, logging: Flags) -> Floats:
    """Return the patience after stays that end: lower if they earned a cycle, else higher."""
    factor = np.where(earned, 0.5, 2.0)
    least = np.array(rule.patience)[:, None]
    adapted = np.where(np.stack([logging, unprotecting]), patience * factor, patience)
    bounded: Floats = np.minimum(np.maximum(adapted, least), np.maximum(least, rule.most))
    return bounded
