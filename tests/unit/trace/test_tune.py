"""Tuning: the search finds the cheapest parameters, is reproducible, and does no job twice."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from support.traces import blinking
from vramtap.errors import UsageError, VramtapError
from vramtap.policy.costs import REFERENCE
from vramtap.policy.decide import OnlinePolicy, Parameters
from vramtap.trace.optimum import optimum
from vramtap.trace.replay import replay
from vramtap.trace.tune import TILE_PAGES, Job, Member, Rated, search, work

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Bowl:
    """Workers for which one set of parameters is the cheapest; the cost rises with the distance from it.

    Args:
        tile_pages: Value of the cheapest parameters.
        patience: Value of the cheapest parameters.
    """

    def __init__(self, tile_pages: int, patience: float) -> None:
        self._cheapest = tile_pages, patience
        self.jobs: list[Job] = []

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, float]]:
        self.jobs += jobs
        # Jobs finish in any order.
        for job in reversed(jobs):
            yield job, self._value(*job)

    def _value(self, member: int, what: Parameters | int) -> float:
        if isinstance(what, int):
            return 100.0
        tile_pages, patience = self._cheapest
        off = abs(math.log2(what.tile_pages / tile_pages)) + abs(math.log2(what.patience / patience))
        return 100.0 * (1 + member * 0.1 + 0.05 * off)


def test_search_finds_the_cheapest_parameters() -> None:
    bowl = Bowl(64, 3.0)
    tuned = search(3, bowl)
    assert tuned.best.parameters.tile_pages == 64
    assert tuned.best.parameters.patience == pytest.approx(3.0, rel=0.2)
    assert tuned.best.worst < tuned.start.worst
    assert tuned.optimum_us == (100.0, 100.0, 100.0)
    assert len(bowl.jobs) == len(set(bowl.jobs)), "no job is done twice"
    assert tuned.tried == len({what for _, what in bowl.jobs if isinstance(what, Parameters)})


def test_search_is_reproducible() -> None:
    assert search(2, Bowl(8, 0.3)) == search(2, Bowl(8, 0.3))


def test_result_is_never_worse_than_the_start() -> None:
    start = Parameters(tile_pages=16, patience=2.0)
    tuned = search(1, Bowl(16, 2.0), start)
    assert tuned.best.parameters == tuned.start.parameters == start


def test_parameters_stay_in_their_ranges() -> None:
    tuned = search(1, Bowl(16, 1e-9))
    assert 1e-3 <= tuned.best.parameters.patience < 2e-3


def test_parameters_of_the_proved_bound_are_not_changed() -> None:
    start = Parameters(margin=0.2, trust=3.0)
    best = search(1, Bowl(64, 3.0), start).best.parameters
    assert (best.margin, best.trust) == (0.2, 3.0)


def test_progress_counts_jobs() -> None:
    calls: list[tuple[int, int]] = []
    search(2, Bowl(8, 1.0), progress=lambda done, total: calls.append((done, total)))
    assert calls[0] == (1, 2 * len({*TILE_PAGES, Parameters().tile_pages}))
    assert [done for done, _ in calls] == list(range(1, len(calls) + 1))
    assert calls[-1][0] == calls[-1][1]


def test_rank_prefers_the_chosen_ratio() -> None:
    even, uneven = Rated(Parameters(), (1.2, 1.2)), Rated(Parameters(), (1.0, 1.3))
    assert even.mean == pytest.approx(1.2)
    assert uneven.mean == pytest.approx(math.sqrt(1.3))
    assert min(even, uneven, key=lambda rated: rated.rank("worst")) is even
    assert min(even, uneven, key=lambda rated: rated.rank("mean")) is uneven


def test_no_trace_is_an_error() -> None:
    with pytest.raises(UsageError, match="no trace"):
        search(0, Bowl(8, 1.0))


def test_job_is_a_replay_or_an_optimum() -> None:
    trace, parameters = blinking(30, 200), Parameters(tile_pages=8)
    member = Member(trace, REFERENCE)
    assert work(member, 8) == optimum(trace, REFERENCE, 8).lower_us
    assert work(member, parameters) == replay(trace, OnlinePolicy(parameters), REFERENCE, 8).total_us
    assert 0 < work(member, 8) <= work(member, parameters)


def test_search_on_a_trace() -> None:
    class Here:
        def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, float]]:
            return ((job, work(Member(blinking(30, 200), REFERENCE), job[1])) for job in jobs)

    tuned = search(1, Here(), by="mean")
    assert 1 <= tuned.best.worst <= tuned.start.worst


def test_failed_job_ends_the_search() -> None:
    class Failing(Bowl):
        def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, float]]:
            raise VramtapError("tune", "worker", "failed")

    with pytest.raises(VramtapError, match="failed"):
        search(1, Failing(8, 1.0))
