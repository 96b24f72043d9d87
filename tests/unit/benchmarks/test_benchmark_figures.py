"""Medians, percentiles and Markdown tables."""

from __future__ import annotations

import pytest
from benchmarks.figures import Spread, ranked, table
from hypothesis import given
from hypothesis import strategies as st

FIGURES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300)


@given(FIGURES, st.floats(0.001, 1.0))
def test_ranked_figure_is_the_smallest_that_covers_the_share(figures: list[float], share: float) -> None:
    found = ranked(sorted(figures), share)
    assert found in figures
    assert sum(figure <= found for figure in figures) >= share * len(figures) - 1e-9
    assert sum(figure < found for figure in figures) < share * len(figures) + 1e-9


@given(FIGURES)
def test_spread_is_ascending(figures: list[float]) -> None:
    spread = Spread.of(figures)
    ascending = [spread.least, spread.median, spread.p95, spread.p99, spread.most]
    assert ascending == sorted(ascending)
    assert (spread.count, spread.least, spread.most) == (len(figures), min(figures), max(figures))


def test_percentiles_of_two_hundred_figures() -> None:
    spread = Spread.of([float(number) for number in range(1, 201)])
    assert (spread.median, spread.p95, spread.p99, spread.most) == (100, 190, 198, 200)


def test_spread_of_no_figures_is_an_error() -> None:
    with pytest.raises(ValueError, match="no figures"):
        Spread.of([])


def test_table_is_markdown() -> None:
    assert table(["a", "b"], [["1", "2"]]).splitlines() == ["| a | b |", "|---|---|", "| 1 | 2 |"]


def test_row_with_too_few_cells_is_refused() -> None:
    with pytest.raises(ValueError, match="1 cells under 2 heads"):
        table(["a", "b"], [["1"]])
