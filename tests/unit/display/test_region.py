"""Tests of regions, against a simple model with one boolean per pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramtap.display.region import REGION_TILE, Rect, Region, bounding_box, boxes

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZES = st.tuples(st.integers(1, 100), st.integers(1, 100))
RECTS = st.builds(
    Rect, st.integers(-20, 110), st.integers(-20, 110), st.integers(-5, 120), st.integers(-5, 120)
)
MASKS = st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(0, 2**32 - 1), st.floats(0, 1)).map(
    lambda spec: np.random.default_rng(spec[2]).random((spec[0], spec[1])) < spec[3]
)


def painted(width: int, height: int, rects: list[Rect]) -> NDArray[np.int64]:
    """Return how many of the rects hold each pixel."""
    count = np.zeros((height, width), dtype=np.int64)
    for rect in rects:
        count[rect.slices] += 1
    return count


class TilePixels:
    """Model of a region: one boolean per pixel, rounded to tiles in a loop."""

    def __init__(self, width: int, height: int) -> None:
        self.pixels = np.zeros((height, width), dtype=np.bool_)
        self.tiles = [
            (slice(y, min(y + REGION_TILE, height)), slice(x, min(x + REGION_TILE, width)))
            for y in range(0, height, REGION_TILE)
            for x in range(0, width, REGION_TILE)
        ]

    def inside(self, rect: Rect) -> NDArray[np.bool_]:
        height, width = self.pixels.shape
        ys, xs = np.mgrid[0:height, 0:width]
        hit: NDArray[np.bool_] = (xs >= rect.x) & (xs < rect.right) & (ys >= rect.y) & (ys < rect.bottom)
        return hit

    def add(self, rect: Rect) -> None:
        hit = self.inside(rect)
        for tile in self.tiles:
            if hit[tile].any():
                self.pixels[tile] = True

    def remove(self, rect: Rect) -> None:
        hit = self.inside(rect)
        for tile in self.tiles:
            if hit[tile].all():
                self.pixels[tile] = False


@given(MASKS)
def test_boxes_cover_each_true_cell_once_and_no_other(mask: NDArray[np.bool_]) -> None:
    count = painted(mask.shape[1], mask.shape[0], boxes(mask))
    assert np.array_equal(count, mask.astype(np.int64))


@given(MASKS, st.integers(1, 8))
def test_limited_boxes_are_disjoint_and_cover_all_true_cells(mask: NDArray[np.bool_], limit: int) -> None:
    found = boxes(mask, limit)
    count = painted(mask.shape[1], mask.shape[0], found)
    assert len(found) <= limit
    assert count.max(initial=0) <= 1
    assert count[mask].all()
    assert all(Rect(0, 0, mask.shape[1], mask.shape[0]).contains(box) for box in found)


def test_boxes_join_equal_runs_of_following_rows() -> None:
    mask = np.array([[1, 1, 0, 1], [1, 1, 0, 1], [0, 1, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0]], dtype=np.bool_)
    assert boxes(mask) == [Rect(0, 0, 2, 2), Rect(3, 0, 1, 3), Rect(1, 2, 1, 1), Rect(1, 4, 1, 1)]


@given(SIZES, st.lists(st.tuples(st.booleans(), RECTS), max_size=12), RECTS)
def test_region_equals_the_model(size: tuple[int, int], steps: list[tuple[bool, Rect]], within: Rect) -> None:
    region, model = Region(*size), TilePixels(*size)
    for adds, rect in steps:
        (region.add if adds else region.remove)(rect)
        (model.add if adds else model.remove)(rect)
    count = painted(*size, region.rects())
    assert np.array_equal(count, model.pixels.astype(np.int64))
    assert region.area == model.pixels.sum()
    assert bool(region) == model.pixels.any()
    hit = model.pixels & model.inside(within)
    assert np.array_equal(painted(*size, region.rects(within)), hit.astype(np.int64))
    clipped = within.intersect(region.screen)
    rounded = region.round_out(within)
    assert (rounded is None) == (clipped is None)
    touched = TilePixels(*size)
    touched.add(within)
    if rounded is not None:
        assert np.array_equal(touched.pixels, touched.inside(rounded))
    assert region.intersects(within) == bool((model.pixels & touched.pixels).any())


@given(SIZES)
def test_fill_adds_the_whole_screen_and_clear_removes_it(size: tuple[int, int]) -> None:
    region = Region(*size)
    region.fill()
    assert region.rects() == [region.screen]
    assert region.area == size[0] * size[1]
    region.remove(region.screen)
    assert not region
    region.fill()
    region.clear()
    assert region.rects() == []


def test_many_small_rects_join_to_one() -> None:
    region = Region(640, 480)
    for y in range(0, 480, 3):
        for x in range(0, 640, 7):
            region.add(Rect(x, y, 1, 1))
    assert region.rects() == [Rect(0, 0, 640, 480)]


def test_rects_can_be_limited() -> None:
    region = Region(640, 480)
    for y in range(0, 480, 32):
        for x in range(0, 640, 32):
            region.add(Rect(x, y, 1, 1))
    assert len(region.rects()) == 300
    limited = region.rects(limit=40)
    assert len(limited) <= 40
    count = painted(640, 480, limited)
    assert count.max() == 1
    assert count[painted(640, 480, region.rects()) > 0].all()


def test_a_screen_without_pixels_has_an_empty_region() -> None:
    region = Region(0, 0)
    region.fill()
    region.add(Rect(0, 0, 10, 10))
    assert not region
    assert region.rects() == []
    assert region.area == 0


def test_negative_size_raises() -> None:
    with pytest.raises(ValueError, match="-1x4"):
        Region(-1, 4)


@given(RECTS, RECTS)
def test_intersection_lies_in_both_rects(one: Rect, other: Rect) -> None:
    both = one.intersect(other)
    if both is None:
        assert other.intersect(one) is None
    else:
        assert one.contains(both)
        assert other.contains(both)
        assert both.area > 0
        assert both == other.intersect(one)


def test_bounding_box_contains_all_rects() -> None:
    assert bounding_box([]) is None
    assert bounding_box([Rect(3, 4, 5, 6), Rect(1, 9, 2, 2)]) == Rect(1, 4, 7, 7)


def test_repr_shows_size_and_rects() -> None:
    region = Region(20, 20)
    region.add(Rect(17, 1, 1, 1))
    assert repr(region) == "Region(20, 20, [(16, 0, 4, 16)])"
    assert region != Region(20, 20)
    assert region != "region"
