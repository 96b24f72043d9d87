"""The two-state rule with an array for everything: slower at few tiles, and nearer to its definition.

What it works out is explained in `vramtap.policy.tile_rule`, which must decide the same.
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
    """What does not change; arrays of shape `(tiles,)`, microseconds.

    Args:
        read_us: A whole tile.
        unprotect_us: D_unprotect, what opening costs.
        lowest_us: -D_unprotect, the least that d can be.
        log_us: D_log, what closing costs.
        cycle_us: C, both.
        own_us: C without the call.
        written_us: A page written while logged.
        protect_us: The call.
        patience: Of the adviser where it begins: to open and to close, in cycles.
        most: Its highest.
        margin: What the adviser may spend more than the rule, as a share.
        trust_us: What it may be behind besides.
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
        """Work out what a target's costs make of tiles of so many pages."""
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
    """What has been seen of each tile and decided; arrays of shape `(tiles,)`, never written to.

    Args:
        rule: What does not change.
        unprotected: Which are.
        regret_us: What the other state would have been cheaper by, since that was last nothing.
        gain_us: What this state has been cheaper by, since it was entered.
        earned: Whether that has ever been C.
        patience: Of opening and of closing, shape `(2, tiles)`.
        rule_unprotected: Which would be open by the work-function rule.
        ahead_us: Its d.
        behind_us: What was spent more than it allows.
        together: It would have all open that is, and nothing is behind.
        settled: Looks that find nothing change nothing any more.
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
        """All logged, nothing seen."""
        tiles = len(rule.read_us)
        none, nothing = np.zeros(tiles, dtype=np.bool_), np.zeros(tiles)
        patience = np.repeat(np.array(rule.patience)[:, None], tiles, axis=1)
        return cls(rule, none, nothing, nothing, ~none, patience, none, rule.lowest_us, nothing, True, True)

    def all_logged(self) -> Self:
        """After a waking: all logged, and what was learned kept."""
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
        """The decision after a look.

        Args:
            dirty: Pages found written or changed.
        """
        rule, was = self.rule, self.unprotected
        hit = dirty > 0
        logged = int(np.count_nonzero(hit > was))
        any_unprotected = bool(was.any())
        share: Floats | float = rule.protect_us / max(logged, 1)
        if any_unprotected:
            share = np.where(was, rule.protect_us / (logged + 1), share)
        # What the look cost more logged than open.
        dearer: Floats = dirty.astype(np.float64)
        dearer *= rule.written_us
        dearer += hit * share
        dearer -= rule.read_us
        worse = np.where(was, -dearer, dearer) if any_unprotected else dearer
        regret = np.maximum(self.regret_us + worse, 0.0)
        gain = self.gain_us - worse
        earned = self.earned | (gain >= rule.cycle_us)
        opening, closing = self._advice(regret, max(logged, 1), any_unprotected)
        changing = opening | closing if any_unprotected else opening
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
            # Whoever wanted it: the stay that ends was the adviser's.
            patience = _learn(rule, patience, earned, changing & now, changing & was)
            behind += changing * np.where(now, rule.unprotect_us, rule.log_us)
            regret[changing] = 0.0
            gain[changing] = 0.0
            earned &= ~changing
        if not together:
            np.maximum(behind, 0.0, out=behind)
            together = not behind.any() and bool((rule_unprotected == now).all())
        # Only a look that finds nothing can leave everything as it will stay.
        settled = not (logged or any_unprotected or now.any() or rule_unprotected.any() or regret.any())
        settled = settled and bool(earned.all() and (ahead == rule.lowest_us).all())
        return type(self)(
            rule, now, regret, gain, earned, patience, rule_unprotected, ahead, behind, together, settled
        )

    def _advice(self, regret: Floats, logged: int, any_unprotected: bool) -> tuple[Flags, Flags]:
        """Which to open and which to close, by their patience."""
        rule, (to_unprotect, to_log), was = self.rule, self.patience, self.unprotected
        opening = (regret >= to_unprotect * (rule.own_us + rule.protect_us / logged)) & ~was
        if not any_unprotected:
            return opening, was
        # What each has regretted beyond its own part, towards a call.
        calls_us = regret / to_log - rule.own_us
        ready = (calls_us >= 0) & was
        return opening, ready if math.fsum(calls_us[ready]) >= rule.protect_us else np.zeros_like(was)

    def _behind(self, dearer: Floats, rule_unprotected: Flags) -> Floats:
        """What was spent more than the rule allows: this look in either state, and the rule's own changes."""
        rule = self.rule
        differ = np.subtract(self.rule_unprotected, self.unprotected, dtype=np.float64)
        its = rule.read_us + np.where(self.rule_unprotected, 0.0, dearer)
        behind: Floats = self.behind_us + dearer * differ - rule.margin * its
        changed = rule_unprotected != self.rule_unprotected
        if changed.any():
            behind -= changed * np.where(rule_unprotected, rule.unprotect_us, rule.log_us) * (1 + rule.margin)
        return behind


def _learn(rule: DenseRule, patience: Floats, earned: Flags, opening: Flags, closing: Flags) -> Floats:
    """A stay that ends has earned a cycle or not: so much was the patience right that led to it."""
    factor = np.where(earned, 0.5, 2.0)
    least = np.array(rule.patience)[:, None]
    learned = np.where(np.stack([closing, opening]), patience * factor, patience)
    bounded: Floats = np.minimum(np.maximum(learned, least), np.maximum(least, rule.most))
    return bounded
