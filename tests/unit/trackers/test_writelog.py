"""The pure part of the log tracker: few ranges that cover all hits."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vramtap.pages import PAGE_SIZE, PageRuns
from vramtap.trackers.writelog import MAX_GAP_PAGES, MAX_PROTECT_CALLS, bridge

BASE = 0x7F0000000000


def hits_of(runs: PageRuns) -> np.ndarray:
    return BASE + runs.array * PAGE_SIZE


@given(st.sets(st.integers(0, 100_000), min_size=1, max_size=60))
def test_every_hit_is_covered_by_few_ordered_ranges(pages: set[int]) -> None:
    runs = PageRuns.from_pages(pages)
    ranges = bridge(hits_of(runs))
    assert 1 <= len(ranges) <= MAX_PROTECT_CALLS
    assert all(a[1] < b[0] for a, b in itertools.pairwise(ranges))
    covered = PageRuns(
        [((lower - BASE) // PAGE_SIZE, (upper - BASE) // PAGE_SIZE) for lower, upper in ranges]
    )
    assert runs.difference(covered) == PageRuns()
    # Only gaps are bridged: every range begins and ends with a hit.
    assert all((lower - BASE) // PAGE_SIZE in runs for lower, _ in ranges)
    assert all((upper - BASE) // PAGE_SIZE - 1 in runs for _, upper in ranges)


def test_small_gaps_are_bridged_and_wide_ones_are_not() -> None:
    near = PageRuns([(0, 1), (1 + MAX_GAP_PAGES, 2 + MAX_GAP_PAGES)])
    assert len(bridge(hits_of(near))) == 1
    far = PageRuns([(0, 1), (2 + MAX_GAP_PAGES, 3 + MAX_GAP_PAGES)])
    assert len(bridge(hits_of(far))) == 2


def test_of_many_wide_gaps_the_widest_stay() -> None:
    starts = np.cumsum([0, *(1000 + 10 * n for n in range(30))])
    ranges = bridge(hits_of(PageRuns([(int(s), int(s) + 1) for s in starts])))
    assert len(ranges) == MAX_PROTECT_CALLS
    gaps = [b[0] - a[1] for a, b in itertools.pairwise(ranges)]
    assert min(gaps) == (1000 + 10 * 15 - 1) * PAGE_SIZE
