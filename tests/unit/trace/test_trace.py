"""Trace: what it accepts and refuses, and its counts, compared with a simple count."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramtap.errors import VramtapError
from vramtap.pages import NO_PAGES, PageRuns
from vramtap.trace import trace as module
from vramtap.trace.trace import MAX_PAGES, Trace, TraceBuilder


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    """Draw a trace of up to 20 intervals and 70 pages."""
    pages = draw(st.integers(1, 70))
    builder = TraceBuilder(pages)
    at_ns = -1
    for written in draw(st.lists(st.sets(st.integers(0, pages - 1)), max_size=20)):
        at_ns += draw(st.integers(1, 1 << 40))
        builder.add(at_ns, PageRuns.from_pages(written))
    return builder.build(draw(st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3)))


def arrays(**changed: Any) -> dict[str, Any]:  # noqa: ANN401 - values of any type
    """Return the arguments of a valid trace of three intervals and ten pages, some of them changed."""
    good = {
        "pages": 10,
        "at_ns": np.array([5, 6, 9], np.int64),
        "starts": np.array([0, 2, 2, 3], np.int64),
        "runs": np.array([[1, 3], [4, 10], [0, 10]], np.int32),
    }
    return good | changed


@given(traces(), st.integers(1, 80))
def test_dirty_counts_the_pages_of_each_tile(trace: Trace, tile_pages: int) -> None:
    sizes = trace.tiles(tile_pages)
    expected = np.zeros((trace.intervals, len(sizes)), np.int64)
    for interval in range(trace.intervals):
        for first, last in trace.written(interval):
            for page in range(first, last):
                expected[interval, page // tile_pages] += 1
    np.testing.assert_array_equal(trace.dirty(tile_pages), expected)
    assert sizes.sum() == trace.pages
    assert (sizes[:-1] == tile_pages).all()
    assert 0 < sizes[-1] <= tile_pages


@given(traces())
def test_builder_keeps_every_interval(trace: Trace) -> None:
    again = TraceBuilder(trace.pages)
    for interval in range(trace.intervals):
        assert len(again) == interval
        again.add(int(trace.at_ns[interval]), trace.written(interval))
    assert again.build(trace.meta) == trace


@given(traces())
def test_trace_can_be_pickled(trace: Trace) -> None:
    assert pickle.loads(pickle.dumps(trace)) == trace


def test_lengths_of_a_trace() -> None:
    trace = Trace(**arrays())
    assert trace.intervals == 3
    assert trace.duration_s == 9e-9
    assert trace.interval_s == 3e-9
    empty = TraceBuilder(4).build({})
    assert (empty.intervals, empty.duration_s, empty.interval_s) == (0, 0.0, 0.0)
    assert empty.dirty(3).shape == (0, 2)


def test_arrays_of_the_caller_are_not_changed() -> None:
    given_arrays, meta = arrays(), {"name": "x"}
    trace = Trace(**given_arrays, meta=meta)
    given_arrays["at_ns"][2] = 10  # still writeable
    meta["name"] = "y"
    assert trace.meta == {"name": "x"}
    with pytest.raises(ValueError, match="read-only"):
        trace.runs[0, 0] = 0


@pytest.mark.parametrize(
    ("other", "same"),
    [({}, True), ({"pages": 11}, False), ({"at_ns": np.array([5, 6, 10], np.int64)}, False)],
)
def test_traces_with_equal_contents_are_equal(other: dict[str, Any], same: bool) -> None:
    assert (Trace(**arrays()) == Trace(**arrays(**other))) is same
    assert Trace(**arrays()) != "a trace"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"pages": 0}, "0 pages"),
        ({"pages": MAX_PAGES + 1}, "pages are outside"),
        ({"pages": 9}, "outside the 9 pages"),
        ({"at_ns": np.array([5, 6, 9], np.int32)}, "at_ns is int32"),
        ({"at_ns": np.array([[5, 6, 9]], np.int64)}, "not a list"),
        ({"at_ns": np.array([-1, 6, 9], np.int64)}, "order of time"),
        ({"at_ns": np.array([5, 5, 9], np.int64)}, "order of time"),
        ({"at_ns": np.array([5, (1 << 63) - 1, -(1 << 63)], np.int64)}, "order of time"),
        ({"starts": np.array([0, 2, 3], np.int64)}, "for 3 intervals"),
        ({"starts": np.array([1, 2, 2, 3], np.int64)}, "do not divide"),
        ({"starts": np.array([0, 2, 2, 2], np.int64)}, "do not divide"),
        ({"starts": np.array([0, 4, 2, 3], np.int64)}, "do not divide"),
        ({"starts": np.array([0, -2, 2, 3], np.int64)}, "do not divide"),
        ({"runs": np.array([1, 3, 4], np.int32)}, "pairs"),
        ({"runs": np.array([[1, 3], [4, 10], [-1, 10]], np.int32)}, "outside"),
        ({"runs": np.array([[1, 3], [4, 10], [5, 5]], np.int32)}, "empty"),
        ({"runs": np.array([[1, 3], [4, 10], [7, 5]], np.int32)}, "reversed"),
        ({"runs": np.array([[4, 10], [1, 3], [0, 10]], np.int32)}, "not sorted"),
        ({"runs": np.array([[1, 5], [4, 10], [0, 10]], np.int32)}, "overlap"),
    ],
)
def test_invalid_arrays_are_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Trace(**arrays(**changed))


def test_runs_of_different_intervals_may_overlap() -> None:
    runs = np.array([[5, 6], [0, 10], [2, 3]], np.int32)
    starts = np.array([0, 1, 1, 2, 3], np.int64)
    Trace(10, np.arange(4, dtype=np.int64), starts, runs)
    with pytest.raises(ValueError, match="overlap"):
        Trace(10, np.arange(4, dtype=np.int64), np.array([0, 0, 0, 3, 3], np.int64), runs)


def test_tile_without_pages_is_refused() -> None:
    with pytest.raises(ValueError, match="tiles of 0 pages"):
        Trace(**arrays()).dirty(0)


def test_too_many_cells_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CELLS", 9)
    trace = Trace(**arrays())
    with pytest.raises(VramtapError, match="tiles of about 4 pages"):
        trace.dirty(3)
    assert trace.dirty(4).shape == (3, 3)


@pytest.mark.parametrize("pages", [0, -1, MAX_PAGES + 1])
def test_builder_refuses_a_number_of_pages_that_no_mode_has(pages: int) -> None:
    with pytest.raises(ValueError, match="pages"):
        TraceBuilder(pages)


def test_builder_is_full_before_a_limit_is_exceeded(monkeypatch: pytest.MonkeyPatch) -> None:
    builder = TraceBuilder(3)
    monkeypatch.setattr(module, "MAX_INTERVALS", 2)
    builder.add(1, NO_PAGES)
    assert not builder.full
    builder.add(2, NO_PAGES)
    assert builder.full
    monkeypatch.undo()
    assert not builder.full
    builder.add(3, PageRuns([(0, 1), (2, 3)]))
    monkeypatch.setattr(module, "MAX_RUNS", 4)
    assert builder.full
    builder.build({})
