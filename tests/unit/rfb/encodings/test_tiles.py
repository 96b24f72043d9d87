"""Tests of the 64-pixel tiles: their order, runs and palettes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.pictures import Pixels, picture, pictures
from vramtap.rfb.encodings.tiles import ZRLE_TILE, columns_of, index_of, tile_groups


@given(pictures(200))
def test_tile_groups_hold_each_tile_once_in_order(pixels: Pixels) -> None:
    height, width = pixels.shape
    columns = columns_of(width)
    seen = []
    for group in tile_groups(pixels):
        for number, tile, starts, runs in zip(
            group.numbers.tolist(), group.pixels, group.starts, group.runs.tolist(), strict=True
        ):
            top, left = number // columns * ZRLE_TILE, number % columns * ZRLE_TILE
            cut = pixels[top : top + ZRLE_TILE, left : left + ZRLE_TILE]
            assert cut.shape == (group.height, group.width)
            assert np.array_equal(tile, cut.ravel())
            changes = [True, *(cut.ravel()[1:] != cut.ravel()[:-1]).tolist()]
            assert starts.tolist() == changes
            assert runs == sum(changes)
            seen.append(number)
    assert sorted(seen) == list(range(columns * columns_of(height)))


@given(pictures(130), st.integers(1, 256))
def test_palettes_hold_the_colours_or_none_above_the_limit(pixels: Pixels, limit: int) -> None:
    for group in tile_groups(pixels):
        for tile, palette in zip(group.pixels, group.palettes(limit), strict=True):
            colours = np.unique(tile)
            if len(colours) > limit:
                assert palette is None
            else:
                assert palette is not None
                assert np.array_equal(palette, colours)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_indices_into_the_palette_give_the_values(dtype: type[np.unsignedinteger]) -> None:
    values = picture("many", 60, 60).astype(dtype)
    palette = np.unique(values)
    assert np.array_equal(palette[index_of(palette, values)], values)
