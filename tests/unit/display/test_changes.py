"""Tests of ChangeFinder, against the plain inequality of two arrays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from support.region_reference import painted
from vramtap.display import changes as module
from vramtap.display.changes import DIFF_TILE_COLUMNS, DIFF_TILE_ROWS, MAX_RECTS, ChangeFinder
from vramtap.display.region import Rect

Pixels = NDArray[np.uint32]


@st.composite
def states(draw: st.DrawFn) -> tuple[Pixels, Pixels]:
    """Return a screen, and a copy with a few pixels and rectangles changed."""
    width, height = draw(st.integers(1, 150)), draw(st.integers(1, 80))
    old = np.zeros((height, width), dtype=np.uint32)
    new = old.copy()
    for x, y, w, h in draw(
        st.lists(
            st.tuples(
                st.integers(0, width - 1), st.integers(0, height - 1), st.integers(1, 40), st.integers(1, 40)
            ),
            max_size=6,
        )
    ):
        new[y : y + h, x : x + w] ^= 0x010203
    return old, new


def check(old: Pixels, new: Pixels, compared: NDArray[np.bool_], rects: list[Rect]) -> None:
    height, width = old.shape
    count = painted(width, height, rects)
    differs = (old != new) & compared[:, None]
    assert count.max(initial=0) <= 1
    assert count[differs].all()
    for rect in rects:
        part = differs[rect.slices]
        assert part[0].any(), "first row without a change"
        assert part[-1].any(), "last row without a change"
        assert part[:, 0].any(), "first column without a change"
        assert part[:, -1].any(), "last column without a change"


@given(states(), st.lists(st.tuples(st.integers(0, 80), st.integers(0, 80)), max_size=4))
def test_rects_are_disjoint_tight_and_cover_all_differences_in_the_bands(
    both: tuple[Pixels, Pixels], cuts: list[tuple[int, int]]
) -> None:
    old, new = both
    compared = np.zeros(len(old), dtype=np.bool_)
    for one, other in cuts:
        compared[min(one, other) : max(one, other)] = True
    edges = np.flatnonzero(np.diff(compared, prepend=False, append=False)).tolist()
    bands = list(zip(edges[::2], edges[1::2], strict=True))
    everywhere = np.ones(len(old), dtype=np.bool_)
    finder = ChangeFinder(old.shape[1], len(old))
    in_bands = finder.find(old, new, bands)
    check(old, new, compared, in_bands)
    check(old, new, everywhere, finder.find(old, new, [(0, len(old))]))
    assert finder.find(old, new, bands) == in_bands, "nothing is left of what another call saw"
    assert finder.find(new, new, [(0, len(old))]) == []


@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_many_changes_give_a_bounded_number_of_rects(seed: int, limit: int) -> None:
    random = np.random.default_rng(seed)
    old = np.zeros((120, 200), dtype=np.uint32)
    new = (random.random((120, 200)) < 0.01).astype(np.uint32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_RECTS", limit)
        found = ChangeFinder(200, 120).find(old, new, [(0, 120)])
    assert len(found) <= limit
    check(old, new, np.ones(120, dtype=np.bool_), found)


def test_scattered_changes_of_a_large_screen_give_at_most_max_rects() -> None:
    old = np.zeros((1080, 1920), dtype=np.uint32)
    new = (np.random.default_rng(2).random(old.shape) < 0.001).astype(np.uint32)
    found = ChangeFinder(1920, 1080).find(old, new, [(0, 1080)])
    assert 1 < len(found) <= MAX_RECTS
    check(old, new, np.ones(1080, dtype=np.bool_), found)


def test_single_pixels_far_apart_give_separate_rects() -> None:
    old = np.zeros((4 * DIFF_TILE_ROWS, 4 * DIFF_TILE_COLUMNS), dtype=np.uint32)
    new = old.copy()
    at = [(0, 0), (4 * DIFF_TILE_COLUMNS - 1, 0), (5, 4 * DIFF_TILE_ROWS - 1)]
    for x, y in at:
        new[y, x] = 1
    found = ChangeFinder(4 * DIFF_TILE_COLUMNS, 4 * DIFF_TILE_ROWS).find(old, new, [(0, 4 * DIFF_TILE_ROWS)])
    assert found == [Rect(x, y, 1, 1) for x, y in at]


def test_a_change_across_tiles_gives_one_rect() -> None:
    old = np.zeros((100, 300), dtype=np.uint32)
    new = old.copy()
    new[7:91, 3:299] = 5
    assert ChangeFinder(300, 100).find(old, new, [(0, 100)]) == [Rect(3, 7, 296, 84)]


def test_no_bands_give_no_rects() -> None:
    old = np.zeros((10, 10), dtype=np.uint32)
    assert ChangeFinder(10, 10).find(old, old + 1, []) == []
