"""PageRuns against Python sets."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramtap.pages import NO_PAGES, PageRuns

PAGES = 200
page_sets = st.sets(st.integers(0, PAGES - 1))


def of(pages: set[int]) -> PageRuns:
    return PageRuns.from_pages(pages)


def pages_of(runs: PageRuns) -> set[int]:
    return {page for first, last in runs for page in range(first, last)}


@given(st.lists(st.tuples(st.integers(0, PAGES), st.integers(0, PAGES)).map(lambda p: (min(p), max(p)))))
def test_any_pairs_become_sorted_disjoint_non_adjacent_runs(pairs: list[tuple[int, int]]) -> None:
    runs = list(PageRuns(pairs))
    assert all(first < last for first, last in runs)
    assert all(before[1] < after[0] for before, after in itertools.pairwise(runs))
    assert pages_of(PageRuns(pairs)) == {page for first, last in pairs for page in range(first, last)}


@given(page_sets, page_sets)
def test_set_operations_match_python_sets(a: set[int], b: set[int]) -> None:
    assert of(a).union(of(b)) == of(a | b)
    assert of(a).intersection(of(b)) == of(a & b)
    assert of(a).difference(of(b)) == of(a - b)
    assert (of(a) == of(b)) == (a == b)
    assert of(a).count == len(a)
    assert all((page in of(a)) == (page in a) for page in range(PAGES))


@given(page_sets, st.integers(0, PAGES), st.integers(0, PAGES))
def test_clip_keeps_indices_and_shift_moves_them(pages: set[int], first: int, last: int) -> None:
    assert pages_of(of(pages).clip(first, last)) == {page for page in pages if first <= page < last}
    assert pages_of(of(pages).shift(first)) == {page + first for page in pages}


@given(page_sets)
def test_bitmaps_and_masks_round_trip(pages: set[int]) -> None:
    runs = of(pages)
    bitmap = np.packbits(runs.to_mask(PAGES), bitorder="little")
    assert PageRuns.from_bitmap(bitmap.tobytes(), PAGES) == runs
    assert PageRuns.from_mask(runs.to_mask(PAGES)) == runs
    assert set(np.flatnonzero(runs.to_mask(PAGES)).tolist()) == pages


def test_first_page_is_the_lowest_bit_of_the_first_byte() -> None:
    assert PageRuns.from_bitmap(b"\x01\x80", 16) == PageRuns([(0, 1), (15, 16)])


def test_invalid_runs_and_short_bitmaps_raise() -> None:
    with pytest.raises(ValueError, match="first <= last"):
        PageRuns([(5, 3)])
    with pytest.raises(ValueError, match="first <= last"):
        PageRuns([(-1, 3)])
    with pytest.raises(ValueError, match="8 bits is too short for 9 pages"):
        PageRuns.from_bitmap(b"\0", 9)


def test_empty_set_is_false_and_equal_sets_hash_alike() -> None:
    assert not NO_PAGES
    assert len(NO_PAGES) == 0
    assert repr(PageRuns([(1, 3)])) == "PageRuns([(1, 3)])"
    assert hash(PageRuns([(1, 2), (2, 3)])) == hash(PageRuns([(1, 3)]))
