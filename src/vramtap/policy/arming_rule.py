"""Arming: after how much looking in vain an extent is armed; ski rental that learns, and what is proved.

A *gap* is a run of looks that find nothing. Each costs `look_us`; arming, with the waking that ends it,
costs `A = arming_us + waking_us` once, and the rest of the gap nothing. To rent or to buy, not knowing how
long: the **break-even rule**, arm after the first look with which this gap has cost more than `A`, costs at
most twice what the cheapest choice for each gap costs, and no deterministic rule does better (A. Karlin, M.
Manasse, L. Rudolph, D. Sleator, "Competitive snoopy caching", Algorithmica 3, 1988). In looks: with `a = A /
look_us` it arms at look `e = floor(a) + 1`. A gap of g < e looks costs g; a longer one e + a <= 2 e, and the
cheapest is `min(g, 1 + a) >= e`, since one look has to find nothing before anything can be armed.

Twice is much where gaps are alike: with nothing written at all, break-even pays two thirds in vain. So the
thresholds of a geometric series are rated by what each would have cost on the gaps there were, the older
ones counting less, and the best of them is used, **while its account allows**. The account holds what this
gap by gap spent less than break-even would have, `budget * A` to begin with and never more. Another
threshold than break-even is used in a gap only if the worst that it can cost more there is covered: `A` for
an earlier one (armed in vain), what it waits longer for a later one. Hence, at every moment,

    spent <= spent by break-even + budget * A <= 2 * cheapest + budget * A,

for looks and armings, where every arming is charged its waking at once. Not covered: what tiles cost while
the extent is not armed, and what an armed interval saves of it; arming can only be better than it is
thought.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

LONGER: Final = 2.0
"""A gap also counts as one so many times as long: the longest so far says little of the longest to come."""
LATEST: Final = 4.0
"""The latest threshold that is rated, in break-evens: later than that, arming is as good as given up."""


@dataclass(frozen=True, slots=True)
class ArmingRule:
    """What does not change; every cost in looks that find nothing.

    Args:
        whole: Arming and waking.
        even: The break-even rule's threshold.
        thresholds: Rated, rising, `even` among them.
        forget: What the past still counts when a gap is over.
        budget: The most that the account can hold.
    """

    whole: float
    even: int
    thresholds: tuple[int, ...]
    forget: float
    budget: float

    @classmethod
    def of(cls, whole: float, after: float, soonest: float, forget: float, budget: float) -> Self:
        """Lay out the thresholds.

        Args:
            whole: Arming and waking, in looks.
            after: Break-even, in `whole`; 1.0 is what is proved.
            soonest: The earliest threshold, in break-evens.
            forget: What the past still counts when a gap is over.
            budget: Of the account, in `whole`.
        """
        steps = range(round(math.log2(min(soonest, 1.0))), round(math.log2(LATEST)) + 1)
        thresholds = [max(1, math.floor(after * whole * 2.0**step)) for step in steps]
        even = thresholds[steps.index(0)] = math.floor(after * whole) + 1
        return cls(whole, even, tuple(sorted(set(thresholds))), forget, budget * whole)


class Arming(NamedTuple):
    """What has been seen so far; costs in looks. A tuple, since each look that finds nothing makes one.

    Args:
        rule: What does not change.
        rated: What each threshold would have cost.
        account: What may be spent more than break-even would.
        due: The threshold of this gap.
        rent: Looks of this gap so far.
    """

    rule: ArmingRule
    rated: tuple[float, ...]
    account: float
    due: int
    rent: int = 0

    @classmethod
    def begin(cls, rule: ArmingRule) -> Self:
        """Nothing seen: the earliest threshold is as good as any, and the only one to be right when idle."""
        return cls._next_gap(rule, (0.0,) * len(rule.thresholds), rule.budget)

    @classmethod
    def _next_gap(cls, rule: ArmingRule, rated: tuple[float, ...], account: float) -> Self:
        due = rule.thresholds[rated.index(min(rated))]
        worst = rule.whole if due < rule.even else due - rule.even
        return cls(rule, rated, account, due if worst <= account else rule.even)

    def quiet(self) -> Self:
        """A look that found nothing."""
        # Past the constructor, which costs three times as much when it is cold, as it is here.
        return tuple.__new__(type(self), (self.rule, self.rated, self.account, self.due, self.rent + 1))

    @property
    def is_due(self) -> bool:
        """Whether to arm now."""
        return self.rent >= self.due

    def refused(self) -> Self:
        """It was due and could not be done: what was spent is forgotten, and break-even waited for."""
        return self._replace(rent=0, due=self.rule.even)

    def ended(self) -> Self:
        """A look that found something ends the gap."""
        if not self.rent:
            return self
        return self._over(self.rent, armed=False)

    def woken(self, slept: float | None) -> Self:
        """A write ends the gap, and the arming.

        Args:
            slept: How many looks were not taken; None if nobody knows: then it is taken for armed in vain.
        """
        return self._over(self.rent + (slept or 0.0), armed=True)

    def _over(self, gap: float, *, armed: bool) -> Self:
        """Rate the thresholds by a gap of so many looks."""
        rule = self.rule
        whole, forget, longer = rule.whole, rule.forget, LONGER * gap
        rated = [
            past * forget + (gap if gap < at else at + whole) + (longer if longer < at else at + whole)
            for past, at in zip(self.rated, rule.thresholds, strict=True)
        ]
        even = gap if gap < rule.even else rule.even + whole
        spent = self.rent + whole if armed else gap
        return self._next_gap(rule, tuple(rated), min(self.account + even - spent, rule.budget))
