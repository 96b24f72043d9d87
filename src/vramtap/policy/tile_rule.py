"""Two states for each tile, logged or open, and when to change: the online rule and what is proved of it.

The task system. In a look a tile of `n` pages, `w` of them written, costs

    logged   w * (fault + page) + share, if w > 0;        0 otherwise
    open     n * page

where `fault` is weighted, and `share` is an equal part of the look's one protecting call, among the logged
tiles hit in it; for an open tile, what its part would be were it logged. Changing costs `D_open = n *
fault` (each of its pages faults once more) and `D_close = n * page + protect` (all of it is read once more,
and the call, as if it were made for this tile alone). Every look is a task, given as two costs; it is paid
in the state the tile is in, and only then is the state changed.

The theorem. A. Borodin, N. Linial, M. Saks, "An optimal on-line algorithm for metrical task system", JACM
39(4), 1992: with N states no deterministic rule stays below 2N - 1 times the optimum (and a constant), and
the work-function rule reaches it: **3** here. Costs of changing that differ between the two ways are the
same as equal ones, half the sum each, up to one constant, since a tile goes there as often as back. The
rule: with `wl` and `wo` the least cost of serving all so far and ending logged or open, `d = wl - wo` in
[-D_open, D_close]; a logged tile is opened when d reaches D_close, an open one closed when it reaches
-D_open.

What it means here, where a look is paid first and decided on after. Let `C = D_open + D_close`. In a whole
cycle (open and close) d goes up by C and down by C, so `wl` rises by W >= C, and adding up what is paid in
either state gives W + C for the looks, C for the changes, and what the two deciding looks overshoot, which
is at most what the dearest look of either kind moves d by: `n * fault + protect` and `n * page`, together
C. So a cycle costs W + 3 C <= **4 W**: at most 4 times the optimum and a constant of 2 C, of which 1 is the
price of not knowing a look before it is paid.

Hysteresis is in it: d has to cross all of [-D_open, D_close] between two changes, so each change is paid
for by looks that were dearer, by at least C - (one look), than they would have been in the other state.

What is done with it. For traces this is too slow to open where opening pays and too quick where it does
not: the **adviser** opens and closes at `patience * C`, a patience for each tile and way, which doubles (up
to `most`) when the stay it led to never earned C, and halves (down to where it began) when it did. Tiles
that are hit together count one call among them in C, and are closed together as soon as together they have
regretted one. It is followed while it is **in
credit**: what it spent on the tile beyond `1 + margin` times the work-function rule, counted from the last
time that it was not behind, must stay within `trust * C`; else the rule itself is followed until it is
again. One look and one change may pass before that is seen, C each. Hence at every moment

    spent on a tile <= (1 + margin) * (4 * optimum + 2 * C) + (trust + 2) * C.

Not covered. (1) The shares: the bound is against the best schedule of this tile *with these shares*; the
one call made for all makes the tiles depend on each other, and nothing is proved of the best schedule of
all. `trace.optimum` bounds that one for recorded traces. An armed stretch begins the count anew: the
constant is for each waking, which by itself costs that much. (2) A change is done at the look after the
decision: an open tile is read once more, and that look is charged as if it were the change. (3) D_open is
the most that opening can cost; pages that are not written again never pay it.

How it is done. A tile that is logged, that d is lowest for, that regrets nothing and has earned its stay
*rests*: a look that finds nothing in it changes nothing of it, so it is not even touched. Most do. For the
others plain numbers are quicker than arrays up to the number of tiles that a screen has: at 60 looks a
second everything is cold when it is called, and each call of numpy costs as much as a tile or two.
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

Flags = NDArray[np.bool_]


class TilePrices(NamedTuple):
    """What things cost for tiles of one size, microseconds.

    Args:
        read_us: A whole tile.
        lowest_us: -D_open, the least that d can be.
        open_us: D_open, what opening costs.
        close_us: D_close, what closing costs.
        cycle_us: C, both.
        own_us: C without the call.
        trust_us: What the adviser may be behind.
    """

    read_us: float
    lowest_us: float
    open_us: float
    close_us: float
    cycle_us: float
    own_us: float
    trust_us: float

    @classmethod
    def of(cls, pages: int, costs: Costs, trust: float) -> Self:
        """Of tiles of so many pages."""
        read_us, open_us = pages * costs.page_us, pages * costs.fault_weighted_us
        close_us = read_us + costs.protect_us
        cycle_us = open_us + close_us
        return cls(read_us, -open_us, open_us, close_us, cycle_us, read_us + open_us, trust * cycle_us)


class Tile(NamedTuple):
    """What has been seen of a tile and decided.

    Args:
        open: Whether it is.
        regret_us: What the other state would have been cheaper by, since that was last nothing.
        gain_us: What this state has been cheaper by, since it was entered; not counted on once it has earned.
        earned: Whether that has ever been C.
        rule_open: Whether it would be open by the work-function rule.
        ahead_us: The rule's d.
        behind_us: What was spent more than it allows.
        to_open: Patience of opening, in cycles.
        to_close: Patience of closing.
    """

    open: bool
    regret_us: float
    gain_us: float
    earned: bool
    rule_open: bool
    ahead_us: float
    behind_us: float
    to_open: float
    to_close: float


@dataclass(frozen=True, slots=True)
class TileRule:
    """What does not change.

    Args:
        prices: Of each tile.
        begun: Each tile as it begins: logged and at rest.
        written_us: A page written while logged, microseconds.
        protect_us: The call, microseconds.
        patience: Of the adviser where it begins: to open and to close, in cycles; more than 0.
        most: Its highest.
        margin: What the adviser may spend more than the rule, as a share.
    """

    prices: tuple[TilePrices, ...]
    begun: tuple[Tile, ...]
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
        """Work out what a target's costs make of tiles of so many pages."""
        sizes: list[int] = pages.tolist()
        # One object for all tiles of a size: there are two sizes at most.
        prices = {size: TilePrices.of(size, costs, trust) for size in set(sizes)}
        begun = {
            size: Tile(False, 0.0, 0.0, True, False, price.lowest_us, 0.0, *patience)
            for size, price in prices.items()
        }
        return cls(
            tuple(prices[size] for size in sizes),
            tuple(begun[size] for size in sizes),
            costs.fault_weighted_us + costs.page_us,
            costs.protect_us,
            patience,
            most,
            margin,
        )

    def looked(self, number: int, tile: Tile, dearer: float, call_us: float, closing: bool) -> Tile:
        """A tile after a look; the same object if nothing has changed.

        Args:
            number: Which.
            tile: Before.
            dearer: What the look cost more logged than open, microseconds.
            call_us: A logged tile's share of the call, microseconds.
            closing: Whether the tiles that want to be closed are.
        """
        was, regret, gain, earned, rule_was, ahead, behind, to_open, to_close = tile
        read_us, lowest_us, open_us, close_us, cycle_us, own_us, trust_us = self.prices[number]
        # Nothing more to be seen: d is as far as it can go, and further the same way.
        if (
            earned
            and was == rule_was
            and not regret
            and not behind
            and (ahead == close_us and dearer >= 0 if was else ahead == lowest_us and dearer <= 0)
        ):
            return tile
        worse = -dearer if was else dearer
        regret += worse
        if regret < 0.0:
            regret = 0.0
        if not earned:
            gain -= worse
            earned = gain >= cycle_us
        ahead += dearer
        if ahead < lowest_us:
            ahead = lowest_us
        if ahead > close_us:
            ahead = close_us
        rule = ahead >= close_us or (rule_was and ahead > lowest_us)
        if was:
            now = not (closing and regret / to_close - own_us >= 0)
        else:
            now = regret >= to_open * (own_us + call_us)
        # What was spent more than the rule allows: this look in either state, and the rule's own changes.
        if rule_was != was:
            behind += -dearer if was else dearer
        behind -= self.margin * (read_us if rule_was else read_us + dearer)
        if rule != rule_was:
            behind -= (open_us if rule else close_us) * (1 + self.margin)
        if behind > trust_us:
            now = rule
        if now != was:
            # Whoever wanted it: the stay that ends was the adviser's.
            if was:
                to_open = self._learned(to_open, earned, self.patience[0])
            else:
                to_close = self._learned(to_close, earned, self.patience[1])
            behind += open_us if now else close_us
            regret, gain, earned = 0.0, 0.0, False
        if behind < 0.0:
            behind = 0.0
        return Tile(now, regret, gain, earned, rule, ahead, behind, to_open, to_close)

    def _learned(self, patience: float, earned: bool, least: float) -> float:
        """A stay that ends has earned a cycle or not: so much was the patience right that led to it."""
        return min(max(patience * (0.5 if earned else 2.0), least), max(least, self.most))


@dataclass(frozen=True, slots=True)
class TileStates:
    """All tiles of an extent. Neither array nor mappings are ever written to.

    Args:
        rule: What does not change.
        open: Which are open, shape `(tiles,)`; the same object as long as they are the same.
        opened: Their numbers.
        active: Those that do not rest.
        resting: Those that do, where they are not as they began; what it says of active ones is outdated.
    """

    rule: TileRule
    open: Flags
    opened: frozenset[int]
    active: Mapping[int, Tile]
    resting: Mapping[int, Tile]

    @classmethod
    def begin(cls, rule: TileRule) -> Self:
        """All logged, nothing seen."""
        return cls(rule, np.zeros(len(rule.prices), dtype=np.bool_), frozenset(), {}, {})

    @property
    def settled(self) -> bool:
        """Looks that find nothing change nothing any more."""
        return not self.active

    def tile(self, number: int) -> Tile:
        """One of them."""
        return self.active.get(number) or self.resting.get(number) or self.rule.begun[number]

    def logged_again(self) -> Self:
        """After a waking: all logged, and what was learned kept."""
        if not self.active:
            return self
        rested = {
            number: self.rule.begun[number]._replace(
                behind_us=tile.behind_us, to_open=tile.to_open, to_close=tile.to_close
            )
            for number, tile in self.active.items()
        }
        none = np.zeros_like(self.open) if self.opened else self.open
        return type(self)(self.rule, none, frozenset(), {}, {**self.resting, **rested})

    def look(self, written: Mapping[int, int]) -> Self:
        """The decision after a look.

        Args:
            written: Pages found written or changed, for each tile where there are any.

        Returns:
            The same object if nothing has changed.
        """
        rule, opened, active = self.rule, self.opened, self.active
        prices, written_us = rule.prices, rule.written_us
        logged = len(written) - len(opened.intersection(written)) if opened else len(written)
        call_us, open_call_us = rule.protect_us / (logged or 1), rule.protect_us / (logged + 1)
        closing = bool(opened) and self._closing(written, open_call_us)
        before = dict(active)
        for number in written:
            if number not in before:
                before[number] = self.tile(number)
        after: dict[int, Tile] = {}
        rested: dict[int, Tile] = {}
        turned: list[int] = []
        same = True
        for number, was in before.items():
            read_us, lowest_us = prices[number][:2]
            dearer = -read_us
            if number in written:
                dearer = written[number] * written_us + (open_call_us if was.open else call_us) - read_us
            now = rule.looked(number, was, dearer, call_us, closing)
            if now is not was:
                same = False
                if now.open != was.open:
                    turned.append(number)
            # Where d is lowest, the rule has it logged.
            if now.open or now.regret_us or not now.earned or now.ahead_us != lowest_us:
                after[number] = now
            elif now is not was:
                rested[number] = now
        if same:
            return self
        resting, is_open = self.resting, self.open
        if rested:
            resting = {**resting, **rested}
        if turned:
            is_open, opened = is_open.copy(), opened.symmetric_difference(turned)
            is_open[turned] ^= True
        return type(self)(rule, is_open, opened, after, resting)

    def _closing(self, written: Mapping[int, int], call_us: float) -> bool:
        """Whether those that are open have together regretted a call."""
        rule, calls_us = self.rule, []
        for number in self.opened:
            tile, prices = self.active[number], rule.prices[number]
            dearer = -prices.read_us
            if number in written:
                dearer = written[number] * rule.written_us + call_us - prices.read_us
            # What it has regretted beyond its own part, towards a call.
            towards_us = (tile.regret_us - dearer) / tile.to_close - prices.own_us
            if towards_us >= 0:
                calls_us.append(towards_us)
        # Exact, so that it does not depend on their order.
        return bool(calls_us) and math.fsum(calls_us) >= rule.protect_us
