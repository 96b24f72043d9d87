"""Backlog against sets of page numbers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vramtap.pages import NO_PAGES, PageRuns
from vramtap.trackers.backlog import Backlog
from vramtap.trackers.base import AllDirty, Reason

PAGES = 40
FIRST, OVERFLOW = AllDirty(Reason.FIRST), AllDirty(Reason.OVERFLOW, "the log was full")
page_sets = st.sets(st.integers(0, PAGES - 1), max_size=12)
windows = st.tuples(st.integers(0, PAGES - 1), st.integers(1, PAGES)).map(
    lambda at: (at[0], min(PAGES, sum(at)))
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), page_sets),
        st.tuples(st.just("lose"), page_sets | st.none()),
        st.tuples(st.just("take"), windows),
    ),
    max_size=40,
)


@given(STEPS)
def test_take_returns_every_dirty_page_once(steps: list[tuple[str, object]]) -> None:
    backlog = Backlog(PAGES)
    lost, dirty, why = set(range(PAGES)), set[int](), FIRST
    for step in steps:
        match step:
            case "add", set(pages):
                backlog.add(PageRuns.from_pages(pages))
                dirty |= pages
            case "lose", None:
                assert backlog.lose(OVERFLOW) is OVERFLOW
                lost, dirty, why = set(range(PAGES)), set(), OVERFLOW
            case "lose", set(pages):
                backlog.lose(OVERFLOW, PageRuns.from_pages(pages))
                lost, why = lost | pages, OVERFLOW
            case "take", (int(first), int(last)):
                inside = set(range(first, last))
                expected = why if lost & inside else PageRuns.from_pages(dirty & inside)
                assert backlog.take((first, last)) == expected
                lost, dirty = lost - inside, dirty - inside
        assert backlog.runs == PageRuns.from_pages(lost | dirty)
        assert bool(backlog) is bool(lost | dirty)
        assert backlog.why == why


def test_take_adds_the_pages_just_found() -> None:
    backlog = Backlog(PAGES)
    found = PageRuns([(3, 4)])
    assert backlog.take((0, 8), found) == FIRST
    assert backlog.take((8, PAGES)) == FIRST
    backlog.add(PageRuns([(4, 6), (20, 21)]))
    assert backlog.take((0, 8), found) == PageRuns([(3, 6)])
    assert backlog.take((0, 8)) == NO_PAGES
    assert backlog.take((0, PAGES)) == PageRuns([(20, 21)])
