"""LogTracker: the ranges that it protects, and the methods that HybridTracker uses."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.scribe import Scribe
from vramtap.errors import TargetGone
from vramtap.linux.procfs import vm_flags
from vramtap.linux.userfaultfd import LOG_FEATURES, Userfaultfd
from vramtap.memory.extent import Extent
from vramtap.memory.own import extent_of
from vramtap.memory.process import ProcessSpace
from vramtap.pages import PAGE_SIZE, PageRuns
from vramtap.trackers.base import AllDirty, Reason
from vramtap.trackers.userfault.log import MAX_GAP_PAGES, MAX_PROTECT_CALLS, LogTracker, bridge

if TYPE_CHECKING:
    from collections.abc import Iterator

BASE = 0x7F0000000000


def ranges_of(runs: PageRuns) -> np.ndarray:
    return BASE + runs.array * PAGE_SIZE


@given(st.sets(st.integers(0, 100_000), min_size=1, max_size=60))
def test_bridge_covers_all_written_pages_with_few_ranges(pages: set[int]) -> None:
    runs = PageRuns.from_pages(pages)
    ranges = bridge(ranges_of(runs))
    assert 1 <= len(ranges) <= MAX_PROTECT_CALLS
    assert all(a[1] < b[0] for a, b in itertools.pairwise(ranges))
    covered = PageRuns(
        [((lower - BASE) // PAGE_SIZE, (upper - BASE) // PAGE_SIZE) for lower, upper in ranges]
    )
    assert runs.difference(covered) == PageRuns()
    # Only gaps are bridged: every range begins and ends with a written page.
    assert all((lower - BASE) // PAGE_SIZE in runs for lower, _ in ranges)
    assert all((upper - BASE) // PAGE_SIZE - 1 in runs for _, upper in ranges)


def test_bridge_joins_small_gaps_only() -> None:
    near = PageRuns([(0, 1), (1 + MAX_GAP_PAGES, 2 + MAX_GAP_PAGES)])
    assert len(bridge(ranges_of(near))) == 1
    far = PageRuns([(0, 1), (2 + MAX_GAP_PAGES, 3 + MAX_GAP_PAGES)])
    assert len(bridge(ranges_of(far))) == 2


def test_bridge_keeps_the_widest_gaps() -> None:
    starts = np.cumsum([0, *(1000 + 10 * n for n in range(30))])
    ranges = bridge(ranges_of(PageRuns([(int(s), int(s) + 1) for s in starts])))
    assert len(ranges) == MAX_PROTECT_CALLS
    gaps = [b[0] - a[1] for a, b in itertools.pairwise(ranges)]
    assert min(gaps) == (1000 + 10 * 15 - 1) * PAGE_SIZE


@given(st.sets(st.integers(0, 3000), min_size=1, max_size=60), st.sets(st.integers(0, 3000), max_size=12))
def test_bridge_avoids_excluded_pages_while_calls_are_left(pages: set[int], excluded: set[int]) -> None:
    excluded -= pages
    ranges = bridge(ranges_of(PageRuns.from_pages(pages)), PageRuns.from_pages(sorted(excluded)), BASE)
    assert 1 <= len(ranges) <= MAX_PROTECT_CALLS
    covered = PageRuns(
        [((lower - BASE) // PAGE_SIZE, (upper - BASE) // PAGE_SIZE) for lower, upper in ranges]
    )
    assert PageRuns.from_pages(pages).difference(covered) == PageRuns()
    if len(ranges) < MAX_PROTECT_CALLS:
        assert not covered.intersection(PageRuns.from_pages(excluded))


# Methods that HybridTracker uses


@pytest.fixture
def pages() -> np.ndarray:
    room = np.zeros(65 * PAGE_SIZE, dtype=np.uint8)
    skip = -room.ctypes.data % PAGE_SIZE
    return room[skip : skip + 64 * PAGE_SIZE]


@pytest.fixture
def tracker(pages: np.ndarray) -> Iterator[LogTracker]:
    made = LogTracker()
    made.start(extent_of(pages)[0])
    made.collect()
    yield made
    made.stop()


def test_excluded_pages_are_neither_reported_nor_protected(tracker: LogTracker, pages: np.ndarray) -> None:
    exclude = PageRuns([(10, 20)])
    pages[[5 * PAGE_SIZE, 12 * PAGE_SIZE, 30 * PAGE_SIZE]] = 1
    assert tracker.collect(exclude=exclude) == PageRuns([(5, 6), (30, 31)])
    assert tracker.collect(exclude=exclude) == PageRuns()
    # Its mark is still set: to log the page again takes nothing but a scan.
    assert tracker.collect() == PageRuns([(12, 13)])
    assert tracker.collect() == PageRuns()


def test_excluding_all_pages_protects_nothing(tracker: LogTracker, pages: np.ndarray) -> None:
    pages[::PAGE_SIZE] = 1
    assert tracker.collect(exclude=PageRuns.full(64)) == PageRuns()
    assert tracker.collect() == PageRuns.full(64)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(written=st.sets(st.integers(0, 63)), left=st.sets(st.integers(0, 63)), window=st.integers(0, 63))
def test_written_pages_are_reported_except_excluded_ones(
    tracker: LogTracker, pages: np.ndarray, written: set[int], left: set[int], window: int
) -> None:
    tracker.collect()
    exclude = PageRuns.from_pages(sorted(left))
    for page in written:
        pages[page * PAGE_SIZE] += np.uint8(1)
    answer = tracker.collect((0, window + 1), exclude=exclude)
    assert isinstance(answer, PageRuns)
    inside = {page for page in written if page <= window}
    assert all(page in answer for page in inside - left)
    assert not answer.difference(PageRuns.from_pages(sorted(inside)))
    rest = tracker.collect()
    assert isinstance(rest, PageRuns)
    assert answer.union(rest) == PageRuns.from_pages(sorted(written))


def test_take_pending_does_not_read_the_log(tracker: LogTracker, pages: np.ndarray) -> None:
    assert not tracker.has_pending
    assert tracker.take_pending() == PageRuns()
    tracker.restore(PageRuns([(3, 5)]))
    pages[20 * PAGE_SIZE] = 1
    assert tracker.has_pending
    assert tracker.take_pending((0, 4)) == PageRuns([(3, 4)])
    assert tracker.take_pending() == PageRuns([(4, 5)])
    assert not tracker.has_pending
    assert tracker.collect() == PageRuns([(20, 21)])


def test_suspend_lifts_protection_and_resume_reports_all_pages(
    tracker: LogTracker, pages: np.ndarray
) -> None:
    armed, woken = AllDirty(Reason.ARMED), AllDirty(Reason.WOKEN)
    tracker.suspend(armed)
    assert not any("uw" in flags for _, flags in vm_flags(os.getpid()))
    assert tracker.take_pending((0, 8)) == armed
    assert tracker.take_pending((0, 8)) == PageRuns()
    assert tracker.take_pending((4, 64)) == armed
    pages[5 * PAGE_SIZE] = 1
    assert tracker.resume(woken) == woken
    pages[6 * PAGE_SIZE] = 1
    assert tracker.collect() == woken
    # The pages were protected before that answer, so it covers all earlier writes.
    assert tracker.collect() == PageRuns()
    pages[6 * PAGE_SIZE] = 2
    assert tracker.collect() == PageRuns([(6, 7)])


def test_resume_of_memory_that_cannot_be_protected_reports_unmapped(
    tracker: LogTracker, pages: np.ndarray
) -> None:
    extent = extent_of(pages)[0]
    tracker.suspend(AllDirty(Reason.ARMED))
    with Userfaultfd.of_self() as other:
        other.api(LOG_FEATURES)
        other.register(extent.address, extent.end)
        assert tracker.resume(AllDirty(Reason.WOKEN)).reason is Reason.UNMAPPED
        answer = tracker.take_pending()
        assert isinstance(answer, AllDirty)
        assert answer.reason is Reason.UNMAPPED
    assert isinstance(tracker.collect(), AllDirty)
    assert tracker.collect() == PageRuns()


def test_rehearsals_lose_no_write(tracker: LogTracker, pages: np.ndarray) -> None:
    pages[[0, PAGE_SIZE]] = 1
    tracker.rehearse_protect(0)
    tracker.rehearse_scan()
    assert tracker.collect() == PageRuns([(0, 2)])
    assert tracker.collect() == PageRuns()


def test_is_mapped_is_false_for_a_hole() -> None:
    with Scribe(8) as scribe:
        space = ProcessSpace(scribe.pid)
        made = LogTracker()
        made.start(Extent(space, scribe.address, 8))
        assert made.is_mapped
        scribe.unmap(7, 8)
        assert not made.is_mapped
        scribe.replace(7, 8)
        assert made.is_mapped
        scribe.end()
        with pytest.raises(TargetGone):
            assert made.is_mapped
        made.stop()
        space.close()
