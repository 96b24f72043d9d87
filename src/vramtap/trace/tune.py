"""Tuning: the parameters of our policy that cost a fleet of traces least, against each one's own optimum.

The search goes from one parameter to the next and back, in steps that become finer: costs change slowly with
each of them and they hardly depend on one another, while a grid of all would take hundreds of times as long.
It is the same on every run, however many work on it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Protocol

from vramtap.errors import UsageError
from vramtap.policy.decide import OnlinePolicy, Parameters
from vramtap.trace.optimum import optimum
from vramtap.trace.replay import replay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from vramtap.policy.costs import Costs
    from vramtap.trace.trace import Trace

By = Literal["worst", "mean"]

TILE_PAGES: Final = (4, 8, 16, 32, 64, 128)
"""From two rows of a small screen to a quarter of a large one."""
FACTORS: Final = (
    (1 / 8, 1 / 4, 1 / 2, 2.0, 4.0, 8.0),
    (1 / math.sqrt(2), math.sqrt(2)),
    (2**-0.25, 2**0.25),
)
"""Steps of the other parameters, coarse to fine; the last is less than what one more recording changes."""
SCALED: Final = ("patience", "patience_closing", "most_patience", "arm_after", "arm_soonest")
"""The parameters that are factors themselves, but those that the proved bound is stated in."""
_ALIKE: Final = 1e-3
"""Ratios that differ by less are the same: the optimum is known no better."""


@dataclass(frozen=True, slots=True)
class Member:
    """A trace of the fleet and what things cost where it was recorded."""

    trace: Trace
    costs: Costs


Job = tuple[int, Parameters | int]
"""A member's number, and the parameters it is replayed with or the pages a tile its optimum is sought for."""


def work(member: Member, what: Parameters | int) -> float:
    """Do one job.

    Returns:
        What the parameters cost on this trace, or the lower bound of what any schedule costs, microseconds.

    Raises:
        VramtapError: the trace is too long for tiles so small.
    """
    if isinstance(what, int):
        return optimum(member.trace, member.costs, what).lower_us
    return replay(member.trace, OnlinePolicy(what), member.costs, what.tile_pages).total_us


class Workers(Protocol):
    """Whoever does jobs."""

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, float]]:
        """Do them.

        Yields:
            Each with what `work` said, as they are done.
        """
        ...


@dataclass(frozen=True, slots=True)
class Rated:
    """Parameters and what they cost.

    Args:
        parameters: Of our policy.
        ratios: Cost against the optimum's lower bound, one for each member of the fleet.
    """

    parameters: Parameters
    ratios: tuple[float, ...]

    @property
    def worst(self) -> float:
        """The highest ratio."""
        return max(self.ratios)

    @property
    def mean(self) -> float:
        """The geometric mean."""
        return math.exp(sum(map(math.log, self.ratios)) / len(self.ratios))

    def rank(self, by: By) -> tuple[float, float]:
        """Lower is better: first what was asked for, then the other."""
        first, second = (self.worst, self.mean) if by == "worst" else (self.mean, self.worst)
        return round(first / _ALIKE) * _ALIKE, second


@dataclass(frozen=True, slots=True)
class Tuned:
    """What a search has found.

    Args:
        start: What it began with.
        best: What it chose.
        optimum_us: The lower bound for each member, over all sizes of tiles tried, microseconds.
        tried: How many sets of parameters were replayed.
    """

    start: Rated
    best: Rated
    optimum_us: tuple[float, ...]
    tried: int


def search(
    members: int,
    workers: Workers,
    start: Parameters | None = None,
    *,
    by: By = "worst",
    told: Callable[[int, int], None] = lambda done, of: None,
) -> Tuned:
    """Look for the parameters that cost least.

    Args:
        members: How many traces the workers have.
        workers: Do the jobs.
        start: Where to begin; our policy's own by default.
        by: The ratio on the worst trace, or the geometric mean of all.
        told: Told after each job how many are done of how many that are known of.

    Returns:
        What it found; never worse than where it began.

    Raises:
        UsageError: there is no trace.
        VramtapError: a job failed.
    """
    if not members:
        raise UsageError("tune", "", "there is no trace", "name at least one file")
    return _Search(members, workers, start or Parameters(), by, told).run()


class _Search:
    def __init__(
        self, members: int, workers: Workers, start: Parameters, by: By, told: Callable[[int, int], None]
    ) -> None:
        self._members = members
        self._workers = workers
        self._start = start
        self._by: By = by
        self._told = told
        self._tiles = sorted({*TILE_PAGES, start.tile_pages})
        self._rated: dict[Parameters, Rated] = {}
        self._done = self._of = 0

    def run(self) -> Tuned:
        jobs: list[Job] = [(member, pages) for member in range(self._members) for pages in self._tiles]
        found = self._do(jobs)
        optimum_us = [min(found[member, pages] for pages in self._tiles) for member in range(self._members)]
        self._optimum_us = tuple(optimum_us)
        start = best = self._best([self._start])
        for factors in FACTORS:
            again = True
            while again:
                before = best
                for candidates in self._around(factors):
                    best = self._best([best.parameters, *candidates(best.parameters)])
                # As long as it helps: each round is at least so much better, so that it ends.
                again = best.rank(self._by) < before.rank(self._by)
        return Tuned(start, best, self._optimum_us, len(self._rated))

    def _around(self, factors: Sequence[float]) -> Iterator[Callable[[Parameters], list[Parameters]]]:
        """What to try of each parameter, given the others."""
        yield lambda best: [dataclasses.replace(best, tile_pages=pages) for pages in self._tiles]
        for name in SCALED:
            yield functools.partial(_scaled, name, factors)

    def _best(self, candidates: Sequence[Parameters]) -> Rated:
        new = [each for each in dict.fromkeys(candidates) if each not in self._rated]
        found = self._do([(member, each) for each in new for member in range(self._members)])
        for each in new:
            pairs = ((found[member, each], self._optimum_us[member]) for member in range(self._members))
            self._rated[each] = Rated(each, tuple(_ratio(cost_us, least_us) for cost_us, least_us in pairs))
        return min((self._rated[each] for each in candidates), key=lambda rated: rated.rank(self._by))

    def _do(self, jobs: Sequence[Job]) -> dict[Job, float]:
        self._of += len(jobs)
        found: dict[Job, float] = {}
        for job, value in self._workers.run(jobs):
            found[job] = value
            self._done += 1
            self._told(self._done, self._of)
        return found


def _scaled(name: str, factors: Sequence[float], best: Parameters) -> list[Parameters]:
    """The parameters with one of them larger or smaller, where that is in its range."""
    found = []
    for factor in factors:
        with contextlib.suppress(ValueError):
            found.append(dataclasses.replace(best, **{name: getattr(best, name) * factor}))
    return found


def _ratio(cost_us: float, least_us: float) -> float:
    """At least 1: the bound is a float's breadth above the cost where both are the same sum."""
    return max(1.0, cost_us / least_us) if least_us > 0 else 1.0 if cost_us <= 0 else math.inf
