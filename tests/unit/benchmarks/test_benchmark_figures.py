"""Medians and percentiles are figures that were measured, and tables have as many cells as heads."""

from __future__ import annotations

import pytest
from benchmarks.figures import Spread, ranked, table
from hypothesis import given
from hypothesis import strategies as st

FIGURES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300)


@given(FIGURES, st.floats(0.001, 1.0))
def test_so_large_a_share_is_at_most_the_ranked_figure(figures: list[float], share: float) -> None:
    found = ranked(sorted(figures), share)
    assert found in figures
    assert sum(figure <= found for figure in figures) >= share * len(figures) - 1e-9
    assert sum(figure < found for figure in figures) < share * len(figures) + 1e-9


@given(FIGURES)
def test_a_spread_is_in_order(figures: list[float]) -> None:
    spread = Spread.of(figures)
    ascending = [spread.least, spread.median, spread.p95, spread.p99, spread.most]
    assert ascending == sorted(ascending)
    assert (spread.count, spread.least, spread.most) == (len(figures), min(figures), max(figures))


def test_the_99th_of_two_hundred_is_not_the_largest() -> None:
    spread = Spread.of([float(number) for number in range(1, 201)])
    assert (spread.median, spread.p95, spread.p99, spread.most) == (100, 190, 198, 200)


def test_no_figures_have_no_spread() -> None:
    with pytest.raises(ValueError, match="no figures"):
        Spread.of([])


def test_a_table_is_markdown() -> None:
    assert table(["a", "b"], [["1", "2"]]).splitlines() == ["| a | b |", "|---|---|", "| 1 | 2 |"]


def test_a_row_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match="1 cells under 2 heads"):
        table(["a", "b"], [["1"]])
