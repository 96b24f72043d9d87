"""The rule for tiles: when a tile changes between logged and unprotected, and what is proved of it.

The task system. In a scan, a tile of `n` pages, `w` of them written, costs

    logged        w * (fault + page) + share, if w > 0;        0 otherwise
    unprotected   n * page

where `fault` is weighted. `share` is an equal part of the scan's one protecting call, among the logged tiles
written in it; for an unprotected tile, the part that it would have if it were logged. The changes cost
`D_unprotect = n * fault` (each of its pages faults once more) and `D_log = n * page + protect` (all of it is
read once more, plus the call, as if it were made for this tile alone). Every scan is a task, given as two
costs. The tile pays it in its current state, and only then may it change its state.

The theorem. A. Borodin, N. Linial, M. Saks, "An optimal on-line algorithm for metrical task system", JACM
39(4), 1992: with N states no deterministic rule costs less than 2N - 1 times the optimum (plus a constant),
and the work-function rule reaches this: **3** here. If the two changes cost different amounts, the result is
the same as with half the sum for each, up to a constant, since a tile changes as often in one direction as in
the other. The rule: let `wl` and `wu` be the least cost of serving all tasks so far and ending logged or
unprotected, and `d = wl - wu`, which lies in [-D_unprotect, D_log]. A logged tile becomes unprotected when d
reaches D_log, an unprotected one becomes logged when d reaches -D_unprotect.

What it means here, where a scan is paid first and decided on afterwards. Let `C = D_unprotect + D_log`. In a
whole cycle (both changes) d rises by C and falls by C, so `wl` rises by W >= C. Adding up the payments in
either state gives W + C for the scans, C for the changes, and the overshoot of the two deciding scans. The
overshoot is at most the largest move of d by one scan of either kind, `n * fault + protect` and `n * page`,
together C. So a cycle costs W + 3 C <= **4 W**: at most 4 times the optimum and a constant of 2 C, of which
one C is the price of paying a scan before its cost is known.

Hysteresis follows from it: d has to cross all of [-D_unprotect, D_log] between two changes. So before each
change the tile has paid, in scans, at least C - (one scan) more than it would have paid in the other state.

What is done with it. On traces this rule is too slow to leave tiles unprotected where that pays, and too fast
where it does not. So the **adviser** changes tiles at `patience * C`. Each tile has a patience for each
direction. It doubles (up to `most`) if the stay that it led to never earned C, and halves (down to its
initial value) if it did. Tiles that are written together count one call among them in C, and become logged
together once their common regret covers a call. The adviser is followed while it is **in credit**: its
spending on the tile beyond `1 + margin` times that of the work-function rule, counted from the last time that
it was not behind, must stay within `trust * C`. Otherwise the rule itself is followed until the adviser is in
credit again. One scan and one change may pass before that is noticed, C each. Hence at every moment

    spent on a tile <= (1 + margin) * (4 * optimum + 2 * C) + (trust + 2) * C.

Not covered. (1) The shares: the bound is against the best schedule of this tile *with these shares*. The one
call for all makes the tiles depend on each other, and nothing is proved about the best schedule of all tiles.
`trace.optimum` bounds that one for recorded traces. An armed stretch starts the count again: the constant is
for each waking, which by itself costs that much. (2) A change is made at the scan after the decision: an
unprotected tile is read once more, and that scan is charged as if it were the change. (3) D_unprotect is the
most that leaving a tile unprotected can cost; pages that are not written again never cost it.

How it is computed. A tile *rests* if it is logged, d is lowest for it, it has no regret and it has earned its
stay. A scan that finds nothing in it changes nothing, so it is not evaluated. Most tiles rest. For the
others, plain numbers are faster than arrays, up to the number of tiles of a screen: at 60 scans a second, the
caches are cold at each call, and each call of numpy costs as much as a tile or two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vramtap.policy.costs import Costs

TileMask = NDArray[np.bool_]
"""One boolean for each tile, shape `(tiles,)`."""


class TilePrices(NamedTuple):
    """Prices for tiles of one size, microseconds.

    Args:
        read_us: Reading the whole tile.
        lowest_us: -D_unprotect, the least value of d.
        unprotect_us: D_unprotect, the change from logged to unprotected.
        log_us: D_log, the change from unprotected to logged.
        cycle_us: C, both changes.
        own_us: C without the call.
        trust_us: How far the adviser may be behind the rule.
    """

    read_us: float
    lowest_us: float
    unprotect_us: float
    log_us: float
    cycle_us: float
    own_us: float
    trust_us: float

    @classmethod
    def of(cls, pages: int, costs: Costs, trust: float) -> Self:
        """Return the prices for tiles of `pages` pages."""
        read_us, unprotect_us = pages * costs.page_us, pages * costs.fault_weighted_us
        log_us = read_us + costs.protect_us
        cycle_us = unprotect_us + log_us
        return cls(
            read_us, -unprotect_us, unprotect_us, log_us, cycle_us, read_us + unprotect_us, trust * cycle_us
        )


class Tile(NamedTuple):
    """State of a tile.

    Args:
        unprotected: Whether the tile is unprotected; otherwise it is logged.
        regret_us: How much cheaper the other state would have been, since this was last 0.
        gain_us: How much cheaper this state has been since it was entered; fixed once it has earned.
        earned: Whether the gain has ever been C.
        rule_unprotected: Whether the tile would be unprotected by the work-function rule.
        ahead_us: The rule's d.
        behind_us: What was spent beyond the allowance.
        to_unprotect: Patience for becoming unprotected, in cycles.
        to_log: Patience for becoming logged, in cycles.
    """

    unprotected: bool
    regret_us: float
    gain_us: float
    earned: bool
    rule_unprotected: bool
    ahead_us: float
    behind_us: float
    to_unprotect: float
    to_log: float

    def rests(self, prices: TilePrices) -> bool:
        """Return whether a scan that finds nothing in the tile changes nothing."""
        # If d is lowest, the rule has the tile logged.
        return (
            self.earned and not self.unprotected and not self.regret_us and self.ahead_us == prices.lowest_us
        )


@dataclass(frozen=True, slots=True)
class TileRule:
    """The constant part of the rule.

    Args:
        prices: Prices of each tile.
        initial: Initial state of each tile: logged and at rest.
        written_us: A written page of a logged tile, microseconds.
        protect_us: The call, microseconds.
        patience: Initial patience of the adviser for becoming unprotected and logged, in cycles; more than 0.
        most: Highest patience.
        margin: How much more than the rule the adviser may spend, as a share.
    """

    prices: tuple[TilePrices, ...]
    initial: tuple[Tile, ...]
    written_us: float
    protect_us: float
    patience: tuple[float, float]
    most: float
    margin: float

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
        """Return the rule for a target.

        Args:
            pages: Pages of each tile, shape `(tiles,)`.
            costs: Measured on the target.
            patience: Initial patience, see the class.
            most: Highest patience.
            margin: See the class.
            trust: How far the adviser may be behind the rule, in cycles.
        """
        sizes: list[int] = pages.tolist()
        # Tiles of one size share their objects; there are two sizes at most.
        prices = {size: TilePrices.of(size, costs, trust) for size in set(sizes)}
        initial = {
            size: Tile(
                unprotected=False,
                regret_us=0.0,
                gain_us=0.0,
                earned=True,
                rule_unprotected=False,
                ahead_us=price.lowest_us,
                behind_us=0.0,
                to_unprotect=patience[0],
                to_log=patience[1],
            )
            for size, price in prices.items()
        }
        return cls(
            tuple(prices[size] for size in sizes),
            tuple(initial[size] for size in sizes),
            costs.fault_weighted_us + costs.page_us,
            costs.protect_us,
            patience,
            most,
            margin,
        )

    def after_scan(self, number: int, tile: Tile, dearer_us: float, call_us: float, *, log: bool) -> Tile:
        """Return the state of a tile after a scan; the same object if nothing changed.

        Args:
            number: Number of the tile.
            tile: Its state before.
            dearer_us: How much more the scan cost logged than unprotected, microseconds.
            call_us: Share of a logged tile in the call, microseconds.
            log: Whether unprotected tiles with enough regret become logged.
        """
        prices = self.prices[number]
        if _is_constant(tile, dearer_us, prices):
            return tile
        worse_us = -dearer_us if tile.unprotected else dearer_us
        regret_us = max(tile.regret_us + worse_us, 0.0)
        gain_us, earned = tile.gain_us, tile.earned
        if not earned:
            gain_us -= worse_us
            earned = gain_us >= prices.cycle_us
        ahead_us = min(max(tile.ahead_us + dearer_us, prices.lowest_us), prices.log_us)
        rule = ahead_us >= prices.log_us or (tile.rule_unprotected and ahead_us > prices.lowest_us)
        behind_us = self._behind_us(tile, dearer_us, prices, rule_unprotected=rule)
        if behind_us > prices.trust_us:
            now = rule
        elif tile.unprotected:
            now = not (log and regret_us / tile.to_log - prices.own_us >= 0)
        else:
            now = regret_us >= tile.to_unprotect * (prices.own_us + call_us)
        to_unprotect, to_log = tile.to_unprotect, tile.to_log
        if now != tile.unprotected:
            # Whether the rule or the adviser changes the tile: the stay that ends was the adviser's.
            if tile.unprotected:
                to_unprotect = self._adapted(to_unprotect, self.patience[0], earned=earned)
            else:
                to_log = self._adapted(to_log, self.patience[1], earned=earned)
            behind_us += prices.unprotect_us if now else prices.log_us
            regret_us, gain_us, earned = 0.0, 0.0, False
        return Tile(
            now, regret_us, gain_us, earned, rule, ahead_us, max(behind_us, 0.0), to_unprotect, to_log
        )

    def _behind_us(
        self, tile: Tile, dearer_us: float, prices: TilePrices, *, rule_unprotected: bool
    ) -> float:
        """Return what was spent beyond the allowance: by this scan, and less the rule's own change.

        Args:
            tile: State before the scan.
            dearer_us: As in `after_scan`.
            prices: Prices of the tile.
            rule_unprotected: Whether the rule has the tile unprotected after the scan.
        """
        behind_us = tile.behind_us
        if tile.rule_unprotected != tile.unprotected:
            behind_us += -dearer_us if tile.unprotected else dearer_us
        behind_us -= self.margin * (prices.read_us if tile.rule_unprotected else prices.read_us + dearer_us)
        if rule_unprotected != tile.rule_unprotected:
            behind_us -= (prices.unprotect_us if rule_unprotected else prices.log_us) * (1 + self.margin)
        return behind_us

    def _adapted(self, patience: float, least: float, *, earned: bool) -> float:
        """Return the patience that led to a stay, after the stay: lower if it earned a cycle, else higher."""
        return min(max(patience * (0.5 if earned else 2.0), least), max(least, self.most))


def _is_constant(tile: Tile, dearer_us: float, prices: TilePrices) -> bool:
    """Return whether the scan changes nothing: d is at its limit, and the scan moves it further that way."""
    if not tile.earned or tile.unprotected != tile.rule_unprotected or tile.regret_us or tile.behind_us:
        return False
    if tile.unprotected:
        return tile.ahead_us == prices.log_us and dearer_us >= 0
    return tile.ahead_us == prices.lowest_us and dearer_us <= 0


@dataclass(frozen=True, slots=True)
class TileStates:
    """States of all tiles of an extent. The array and the mappings are never changed.

    Args:
        rule: The constant part.
        unprotected: Which tiles are unprotected; the same object as long as they are the same.
        numbers: Numbers of the unprotected tiles.
        active: Tiles that do not rest.
        resting: Tiles that rest and differ from their initial state. Entries of active tiles are outdated.
    """

    rule: TileRule
    unprotected: TileMask
    numbers: frozenset[int]
    active: Mapping[int, Tile]
    resting: Mapping[int, Tile]

    @classmethod
    def begin(cls, rule: TileRule) -> Self:
        """Return the initial state: all tiles logged."""
        return cls(rule, np.zeros(len(rule.prices), dtype=np.bool_), frozenset(), {}, {})

    @property
    def settled(self) -> bool:
        """Whether scans that find nothing change nothing any more."""
        return not self.active

    def tile(self, number: int) -> Tile:
        """Return the state of a tile."""
        return self.active.get(number) or self.resting.get(number) or self.rule.initial[number]

    def all_logged(self) -> Self:
        """Return the state after a waking: all tiles logged, with the adapted patience."""
        if not self.active:
            return self
        rested = {
            number: self.rule.initial[number]._replace(
                behind_us=tile.behind_us, to_unprotect=tile.to_unprotect, to_log=tile.to_log
            )
            for number, tile in self.active.items()
        }
        none = np.zeros_like(self.unprotected) if self.numbers else self.unprotected
        return type(self)(self.rule, none, frozenset(), {}, {**self.resting, **rested})

    def scanned(self, written: Mapping[int, int]) -> Self:
        """Return the state after a scan; the same object if nothing changed.

        Args:
            written: Number of pages found written or changed, for each tile that has any.
        """
        rule = self.rule
        logged = len(written) - len(self.numbers.intersection(written))
        call_us, unprotected_call_us = rule.protect_us / (logged or 1), rule.protect_us / (logged + 1)
        log = bool(self.numbers) and self._regret_covers_call(written, unprotected_call_us)
        before = dict(self.active)
        for number in written:
            if number not in before:
                before[number] = self.tile(number)
        changed: dict[int, Tile] = {}
        for number, was in before.items():
            dearer_us = self._dearer_us(number, written, unprotected_call_us if was.unprotected else call_us)
            now = rule.after_scan(number, was, dearer_us, call_us, log=log)
            if now is not was:
                changed[number] = now
        return self._with({**before, **changed}, changed) if changed else self

    def _dearer_us(self, number: int, written: Mapping[int, int], call_us: float) -> float:
        """Return how much more a scan costs if the tile is logged than if it is unprotected, microseconds."""
        read_us = self.rule.prices[number].read_us
        if number not in written:
            return -read_us
        return written[number] * self.rule.written_us + call_us - read_us

    def _with(self, tiles: Mapping[int, Tile], changed: Mapping[int, Tile]) -> Self:
        """Return these states with some tiles evaluated, and some of those changed."""
        prices = self.rule.prices
        active = {number: tile for number, tile in tiles.items() if not tile.rests(prices[number])}
        rested = {number: tile for number, tile in changed.items() if number not in active}
        turned = [number for number, tile in changed.items() if tile.unprotected != (number in self.numbers)]
        resting = {**self.resting, **rested} if rested else self.resting
        if not turned:
            return type(self)(self.rule, self.unprotected, self.numbers, active, resting)
        unprotected = self.unprotected.copy()
        unprotected[turned] ^= True
        return type(self)(self.rule, unprotected, self.numbers.symmetric_difference(turned), active, resting)

    def _regret_covers_call(self, written: Mapping[int, int], call_us: float) -> bool:
        """Return whether the unprotected tiles together regret as much as one call costs."""
        rule, calls_us = self.rule, []
        for number in self.numbers:
            tile, own_us = self.active[number], rule.prices[number].own_us
            # Regret beyond the tile's own part of C counts towards a call.
            towards_us = (tile.regret_us - self._dearer_us(number, written, call_us)) / tile.to_log - own_us
            if towards_us >= 0:
                calls_us.append(towards_us)
        # fsum is exact, so the result does not depend on the order.
        return bool(calls_us) and math.fsum(calls_us) >= rule.protect_us
