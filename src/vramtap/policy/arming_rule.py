"""The rule for arming: after how many scans without result an extent is armed, and what is proved of it.

A *gap* is a run of scans that find nothing. Each costs `scan_us`. Arming, with the waking that ends it, costs
`A = arming_us + waking_us` once, and the rest of the gap costs nothing. This is ski rental: to rent or to buy
without knowing the length. The **break-even rule** arms after the first scan with which this gap has cost
more than `A`. It costs at most twice the cheapest choice for each gap, and no deterministic rule does better
(A. Karlin, M. Manasse, L. Rudolph, D. Sleator, "Competitive snoopy caching", Algorithmica 3, 1988). In scans:
with `a = A / scan_us`, it arms at scan `e = floor(a) + 1`. A gap of g < e scans costs g; a longer one costs e
+ a <= 2 e, and the cheapest choice is `min(g, 1 + a) >= e`, since one scan has to find nothing before the
extent can be armed.

Twice is a lot if all gaps are alike: if nothing is ever written, two thirds of what break-even pays are
wasted. So the thresholds of a geometric series are rated by what each would have cost on the gaps so far,
with less weight for older gaps. The best of them is used, **while its account allows**. The account holds
what the gaps so far cost less than with break-even; it starts with `budget * A` and never holds more. A gap
uses another threshold than break-even only if the account covers the most that this can cost more: `A` for an
earlier threshold (armed in vain), the longer wait for a later one. Hence, at every moment,

    spent <= spent by break-even + budget * A <= 2 * cheapest + budget * A,

for scans and armings, where every arming is charged its waking at once. Not covered: what tiles cost while
the extent is not armed, and what an armed interval saves of it. So arming can only be better than this rating
says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

LONGER: Final = 2.0
"""Each gap is also rated as one this many times as long: later gaps may be longer than all so far."""
LATEST: Final = 4.0
"""Latest threshold that is rated, in break-evens: with a later one the extent is hardly ever armed."""


@dataclass(frozen=True, slots=True)
class ArmingRule:
    """The constant part of the rule; the unit of all costs is one scan that finds nothing.

    Args:
        whole: Cost of arming and waking.
        even: Threshold of the break-even rule.
        thresholds: Rated thresholds, rising, `even` among them.
        forget: Weight of earlier gaps, applied each time a gap ends.
        budget: The most that the account can hold.
    """

    whole: float
    even: int
    thresholds: tuple[int, ...]
    forget: float
    budget: float

    @classmethod
    def of(cls, whole: float, after: float, soonest: float, forget: float, budget: float) -> Self:
        """Return the rule with its thresholds.

        Args:
            whole: Cost of arming and waking, in scans.
            after: Break-even, in `whole`; the proof holds for 1.0.
            soonest: Earliest threshold, in break-evens.
            forget: See the class.
            budget: Of the account, in `whole`.
        """
        steps = range(round(math.log2(min(soonest, 1.0))), round(math.log2(LATEST)) + 1)
        thresholds = [max(1, math.floor(after * whole * 2.0**step)) for step in steps]
        even = thresholds[steps.index(0)] = math.floor(after * whole) + 1
        return cls(whole, even, tuple(sorted(set(thresholds))), forget, budget * whole)


class Arming(NamedTuple):
    """State of the rule; costs in scans. A tuple, since each scan that finds nothing makes a new one.

    Args:
        rule: The constant part.
        rated: What each threshold would have cost so far.
        account: What may be spent beyond break-even.
        due: Threshold of this gap.
        rent: Scans of this gap so far.
    """

    rule: ArmingRule
    rated: tuple[float, ...]
    account: float
    due: int
    rent: int = 0

    @classmethod
    def begin(cls, rule: ArmingRule) -> Self:
        """Return the initial state, with the earliest threshold, which is right for an idle screen."""
        return cls._next_gap(rule, (0.0,) * len(rule.thresholds), rule.budget)

    @classmethod
    def _next_gap(cls, rule: ArmingRule, rated: tuple[float, ...], account: float) -> Self:
        due = rule.thresholds[rated.index(min(rated))]
        worst = rule.whole if due < rule.even else due - rule.even
        return cls(rule, rated, account, due if worst <= account else rule.even)

    def quiet(self) -> Self:
        """Return the state after a scan that found nothing."""
        # Without the constructor, which takes three times as long with the cold caches of this call.
        return tuple.__new__(type(self), (self.rule, self.rated, self.account, self.due, self.rent + 1))

    @property
    def is_due(self) -> bool:
        """Whether to arm now."""
        return self.rent >= self.due

    def refused(self) -> Self:
        """Return the state after the extent could not be armed: the gap counts from 0, up to break-even."""
        return self._replace(rent=0, due=self.rule.even)

    def gap_ended(self) -> Self:
        """Return the state after a scan that found something."""
        if not self.rent:
            return self
        return self._rate_gap(self.rent, armed=False)

    def woken(self, slept: float | None) -> Self:
        """Return the state after a write to the armed extent.

        Args:
            slept: Number of scans saved; None if not known, which counts as none.
        """
        return self._rate_gap(self.rent + (slept or 0.0), armed=True)

    def _rate_gap(self, gap: float, *, armed: bool) -> Self:
        """Rate the thresholds by a gap of `gap` scans, and return the state for the next gap."""
        rule = self.rule
        whole, forget, longer = rule.whole, rule.forget, LONGER * gap
        rated = [
            past * forget + (gap if gap < at else at + whole) + (longer if longer < at else at + whole)
            for past, at in zip(self.rated, rule.thresholds, strict=True)
        ]
        even = gap if gap < rule.even else rule.even + whole
        spent = self.rent + whole if armed else gap
        return self._next_gap(rule, tuple(rated), min(self.account + even - spent, rule.budget))
