"""Tuning: find the hybrid policy's parameters that cost least on a fleet of traces.

The cost on each trace is relative to the trace's own optimum.

The search changes one parameter after the other, again and again, in steps that become finer. This works
because costs change slowly with each parameter and the parameters hardly depend on each other. A grid of all
parameters would take hundreds of times as long. The result is the same in every run, with any number of
workers.
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
"""Sizes of tiles that are tried: from two rows of a small screen to a quarter of a large one."""
FACTORS: Final = (
    (1 / 8, 1 / 4, 1 / 2, 2.0, 4.0, 8.0),
    (1 / math.sqrt(2), math.sqrt(2)),
    (2**-0.25, 2**0.25),
)
"""Factors for the other parameters, from coarse to fine. The last ones change the cost by less than another
recording of the same workload does."""
SCALED: Final = ("patience", "patience_closing", "most_patience", "arm_after", "arm_soonest")
"""Parameters that are varied by factors: all factors except those in which the proved bound is stated."""
_ALIKE: Final = 1e-3
"""Ratios that differ by less count as equal: the optimum is not known more exactly."""


@dataclass(frozen=True, slots=True)
class Member:
    """A trace of the fleet.

    Args:
        trace: The trace.
        costs: Costs on the target where it was recorded.
    """

    trace: Trace
    costs: Costs


Job = tuple[int, Parameters | int]
"""Index of a member, and what to compute: the cost of parameters, or the optimum for a number of pages a
tile."""


def work(member: Member, what: Parameters | int) -> float:
    """Do one job.

    Args:
        member: The trace and its costs.
        what: Parameters to replay, or the number of pages of a tile for the optimum.

    Returns:
        Cost of the parameters on this trace, or lower bound of the cost of any schedule, microseconds.

    Raises:
        VramtapError: The trace has too many intervals for tiles of this size.
    """
    if isinstance(what, int):
        return optimum(member.trace, member.costs, what).lower_us
    return replay(member.trace, OnlinePolicy(what), member.costs, what.tile_pages).total_us


class Workers(Protocol):
    """Workers that do jobs."""

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, float]]:
        """Do the jobs.

        Yields:
            Each job and the result of `work`, in the order in which they finish.

        Raises:
            VramtapError: A job failed.
        """
        ...


@dataclass(frozen=True, slots=True)
class Rated:
    """Parameters and their cost.

    Args:
        parameters: Parameters of the hybrid policy.
        ratios: Cost relative to the optimum's lower bound, for each member of the fleet.
    """

    parameters: Parameters
    ratios: tuple[float, ...]

    @property
    def worst(self) -> float:
        """Largest ratio."""
        return max(self.ratios)

    @property
    def mean(self) -> float:
        """Geometric mean of the ratios."""
        return math.exp(sum(map(math.log, self.ratios)) / len(self.ratios))

    def rank(self, by: By) -> tuple[float, float]:
        """Return a sort key, lower is better: the ratio to minimise, then the other one."""
        first, second = (self.worst, self.mean) if by == "worst" else (self.mean, self.worst)
        return round(first / _ALIKE) * _ALIKE, second


@dataclass(frozen=True, slots=True)
class Tuned:
    """Result of a search.

    Args:
        start: Parameters at the begin.
        best: Parameters with the lowest cost.
        optimum_us: Lower bound for each member, the least over all sizes of tiles, microseconds.
        tried: Number of sets of parameters that were replayed.
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
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tuned:
    """Search for the parameters that cost least.

    Args:
        members: Number of traces the workers have.
        workers: Workers that do the jobs.
        start: Parameters to begin with; None for the built-in ones.
        by: What to minimise: the ratio on the worst trace, or the geometric mean of all traces.
        progress: Called after each job with the number of jobs done and the number of jobs known so far.

    Returns:
        The result; never worse than `start`.

    Raises:
        UsageError: There is no trace.
        VramtapError: A job failed.
    """
    if not members:
        raise UsageError("tune", "", "there is no trace", "give at least one file")
    return _Search(members, workers, start or Parameters(), by, progress).run()


class _Search:
    def __init__(
        self, members: int, workers: Workers, start: Parameters, by: By, progress: Callable[[int, int], None]
    ) -> None:
        self._members = members
        self._workers = workers
        self._start = start
        self._by: By = by
        self._progress = progress
        self._tiles = sorted({*TILE_PAGES, start.tile_pages})
        self._rated: dict[Parameters, Rated] = {}
        self._done = self._total = 0

    def run(self) -> Tuned:
        """Search."""
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
                # Repeat while it helps. Each repetition improves the rank by at least `_ALIKE`, so the loop
                # ends.
                again = best.rank(self._by) < before.rank(self._by)
        return Tuned(start, best, self._optimum_us, len(self._rated))

    def _around(self, factors: Sequence[float]) -> Iterator[Callable[[Parameters], list[Parameters]]]:
        """Yield for each parameter a function that returns its candidates, given the best parameters."""
        yield lambda best: [dataclasses.replace(best, tile_pages=pages) for pages in self._tiles]
        for name in SCALED:
            yield functools.partial(_scaled, name, factors)

    def _best(self, candidates: Sequence[Parameters]) -> Rated:
        """Replay the candidates that are new; return the best of all candidates."""
        new = [each for each in dict.fromkeys(candidates) if each not in self._rated]
        found = self._do([(member, each) for each in new for member in range(self._members)])
        for each in new:
            pairs = ((found[member, each], self._optimum_us[member]) for member in range(self._members))
            self._rated[each] = Rated(each, tuple(_ratio(cost_us, least_us) for cost_us, least_us in pairs))
        return min((self._rated[each] for each in candidates), key=lambda rated: rated.rank(self._by))

    def _do(self, jobs: Sequence[Job]) -> dict[Job, float]:
        """Let the workers do jobs; return the results."""
        self._total += len(jobs)
        found: dict[Job, float] = {}
        for job, value in self._workers.run(jobs):
            found[job] = value
            self._done += 1
            self._progress(self._done, self._total)
        return found


def _scaled(name: str, factors: Sequence[float], best: Parameters) -> list[Parameters]:
    """Return the parameters with one of them scaled, for each factor that keeps it in its range."""
    found = []
    for factor in factors:
        with contextlib.suppress(ValueError):
            found.append(dataclasses.replace(best, **{name: getattr(best, name) * factor}))
    return found


def _ratio(cost_us: float, least_us: float) -> float:
    """Return the ratio, at least 1: rounding may put the bound slightly above the cost if both are equal."""
    return max(1.0, cost_us / least_us) if least_us > 0 else 1.0 if cost_us <= 0 else math.inf
