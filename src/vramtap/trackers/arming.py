"""Arming: after how much looking in vain an extent is armed; ski rental that learns, and what is proved.

A *gap* is a run of looks that find nothing. Each costs `look_us`; arming, with the waking that ends it,
costs `A = arming_us + waking_us` once, and the rest of the gap nothing. To rent or to buy, not knowing how
long: the **break-even rule**, arm when the looks of this gap have cost `A`, costs at most twice what the
cheapest choice for each gap costs, and no deterministic rule does better (A. Karlin, M. Manasse, L.
Rudolph, D. Sleator, "Competitive snoopy caching", Algorithmica 3, 1988).

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

from dataclasses import dataclass, replace
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

LATEST: Final = 4.0
"""The latest threshold that is rated, in break-evens: later than that, arming is as good as given up."""


@dataclass(frozen=True, slots=True)
class ArmingRule:
    """What does not change.

    Args:
        look_us: A look that finds nothing.
        whole_us: Arming and waking.
        thresholds_us: Rated, rising, `even_us` among them.
        even_us: The break-even rule's threshold.
        forget: What the past still counts when a gap is over.
        budget_us: The most that the account can hold.
    """

    look_us: float
    whole_us: float
    thresholds_us: NDArray[np.float64]
    even_us: float
    forget: float
    budget_us: float

    @classmethod
    def of(
        cls, look_us: float, whole_us: float, after: float, soonest: float, forget: float, budget: float
    ) -> Self:
        """Lay out the thresholds.

        Args:
            look_us: A look that finds nothing.
            whole_us: Arming and waking.
            after: Break-even, in `whole_us`; 1.0 is what is proved.
            soonest: The earliest threshold, in break-evens.
            forget: What the past still counts when a gap is over.
            budget: Of the account, in `whole_us`.
        """
        even_us = after * whole_us
        steps = max(1, round(np.log2(1 / min(soonest, 0.5))))
        factors = 2.0 ** np.arange(-steps, np.log2(LATEST) + 1)
        return cls(look_us, whole_us, even_us * factors, even_us, forget, budget * whole_us)


@dataclass(frozen=True, slots=True)
class Arming:
    """What has been seen so far.

    Args:
        rule: What does not change.
        rated_us: What each threshold would have cost.
        account_us: What may be spent more than break-even would.
        due_us: The threshold of this gap.
        rent_us: Spent on this gap so far.
    """

    rule: ArmingRule
    rated_us: NDArray[np.float64]
    account_us: float
    due_us: float
    rent_us: float = 0.0

    @classmethod
    def begin(cls, rule: ArmingRule) -> Self:
        """Nothing seen: the earliest threshold is as good as any, and the only one to be right when idle."""
        return cls(rule, np.zeros(len(rule.thresholds_us)), rule.budget_us, 0.0)._next_gap()

    def _next_gap(self) -> Self:
        rule = self.rule
        due_us = float(rule.thresholds_us[int(np.argmin(self.rated_us))])
        worst_us = rule.whole_us if due_us < rule.even_us else due_us - rule.even_us
        return replace(self, rent_us=0.0, due_us=due_us if worst_us <= self.account_us else rule.even_us)

    def quiet(self) -> Self:
        """A look that found nothing."""
        return type(self)(
            self.rule, self.rated_us, self.account_us, self.due_us, self.rent_us + self.rule.look_us
        )

    @property
    def due(self) -> bool:
        """Whether to arm now."""
        return self.rent_us >= self.due_us

    def refused(self) -> Self:
        """It was due and could not be done: what was spent is forgotten, and break-even waited for."""
        return replace(self, rent_us=0.0, due_us=self.rule.even_us)

    def ended(self) -> Self:
        """A look that found something ends the gap."""
        if self.rent_us <= self.rule.thresholds_us[0]:
            # All of them would have done the same; most gaps of a busy screen are of this kind.
            return replace(self, rent_us=0.0) if self.rent_us else self
        return self._over(self.rent_us, armed=False)

    def woken(self, slept_looks: float | None) -> Self:
        """A write ends the gap, and the arming.

        Args:
            slept_looks: How many looks were not taken; None if nobody knows: then the gap counts as one that
                only just was not worth arming.
        """
        if slept_looks is None:
            return self._over(max(self.rent_us, self.rule.even_us), armed=True)
        return self._over(self.rent_us + slept_looks * self.rule.look_us, armed=True)

    def _over(self, gap_us: float, *, armed: bool) -> Self:
        """Rate the thresholds by a gap for which looking would have cost so much."""
        rule = self.rule
        would = np.where(gap_us <= rule.thresholds_us, gap_us, rule.thresholds_us + rule.whole_us)
        even_us = gap_us if gap_us <= rule.even_us else rule.even_us + rule.whole_us
        spent_us = self.rent_us + rule.whole_us if armed else gap_us
        account_us = min(self.account_us + even_us - spent_us, rule.budget_us)
        rated_us = self.rated_us * rule.forget + would
        return replace(self, rated_us=rated_us, account_us=account_us)._next_gap()
