"""Tiles: counts and runs match a count page by page."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramtap.pages import NO_PAGES, PageRuns
from vramtap.policy.tiles import Tiles

LAYOUTS = st.tuples(st.integers(1, 200), st.integers(1, 40))


@given(LAYOUTS)
def test_tiles_cover_the_extent_in_order(layout: tuple[int, int]) -> None:
    pages, tile_pages = layout
    tiles = Tiles(pages, tile_pages)
    assert len(tiles) == -(-pages // tile_pages) == len(tiles.sizes)
    assert tiles.sizes.sum() == pages
    assert (tiles.sizes[:-1] == tile_pages).all()
    assert 1 <= tiles.sizes[-1] <= tile_pages


@given(LAYOUTS, st.sets(st.integers(0, 199)))
def test_count_matches_counting_page_by_page(layout: tuple[int, int], chosen: set[int]) -> None:
    pages, tile_pages = layout
    inside = {page for page in chosen if page < pages}
    counts = Tiles(pages, tile_pages).count(PageRuns.from_pages(sorted(inside)))
    by_hand = [0] * -(-pages // tile_pages)
    for page in inside:
        by_hand[page // tile_pages] += 1
    assert counts.tolist() == by_hand
    assert counts.dtype == np.int64


@given(LAYOUTS, st.data())
def test_runs_of_chosen_tiles_are_their_pages(layout: tuple[int, int], data: st.DataObject) -> None:
    pages, tile_pages = layout
    tiles = Tiles(pages, tile_pages)
    chosen = np.array(data.draw(st.lists(st.booleans(), min_size=len(tiles), max_size=len(tiles))), np.bool_)
    runs = tiles.runs(chosen)
    assert runs == PageRuns.from_pages([page for page in range(pages) if chosen[page // tile_pages]])
    assert tiles.count(runs).tolist() == (tiles.sizes * chosen).tolist()


def test_runs_of_no_tile_are_empty() -> None:
    tiles = Tiles(10, 3)
    assert tiles.runs(np.zeros(4, np.bool_)) == NO_PAGES
    assert tiles.count(NO_PAGES).tolist() == [0] * 4


@pytest.mark.parametrize(("pages", "tile_pages"), [(0, 1), (1, 0), (-1, 4)])
def test_empty_tiles_raise(pages: int, tile_pages: int) -> None:
    with pytest.raises(ValueError, match="pages into tiles of"):
        Tiles(pages, tile_pages)
