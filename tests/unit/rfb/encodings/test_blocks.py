"""Tests of blocks: they cover the rectangle once, their kinds are right, and Tight's limits hold."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.pictures import Pixels, picture, pictures
from vramtap.rfb.encodings.blocks import MAX_AREA, MAX_COLOURS, MAX_WIDTH, BlockKind, blocks
from vramtap.rfb.encodings.tiles import ZRLE_TILE


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(pictures(300), st.booleans())
def test_blocks_cover_each_pixel_once_and_have_the_right_kind(pixels: Pixels, jpeg: bool) -> None:
    height, width = pixels.shape
    covered = np.zeros(pixels.shape, np.uint8)
    for block in blocks(pixels, pixels, jpeg=jpeg):
        rect = block.rect(width, height)
        covered[rect.slices] += 1
        colours = set(np.unique(pixels[rect.slices]).tolist())
        match block.kind:
            case BlockKind.SOLID:
                assert colours == block.colours
                assert len(colours) == 1
            case BlockKind.COLOURS:
                assert colours == block.colours
                assert 2 <= len(colours) <= MAX_COLOURS
            case BlockKind.PHOTO:
                assert jpeg
                assert len(colours) > 64
            case BlockKind.PIXELS:
                assert len(colours) > MAX_COLOURS
    assert (covered == 1).all()


def test_blocks_stay_within_tights_limits() -> None:
    for kind in ("solid", "two", "many", "noise", "photo"):
        pixels = picture(kind, 4200, 700)
        for block in blocks(pixels, pixels, jpeg=True):
            rect = block.rect(4200, 700)
            assert rect.width <= MAX_WIDTH
            assert block.kind is BlockKind.SOLID or rect.area <= MAX_AREA


def test_a_block_of_two_colours_is_not_joined_with_more_colours() -> None:
    pixels = np.zeros((ZRLE_TILE, 3 * ZRLE_TILE), np.uint32)
    pixels[::2, :ZRLE_TILE] = 1
    pixels[::2, ZRLE_TILE : 2 * ZRLE_TILE] = 1
    pixels[::2, 2 * ZRLE_TILE :] = 2
    found = blocks(pixels, pixels, jpeg=False)
    assert [(block.left, block.right, sorted(block.colours)) for block in found] == [
        (0, 2, [0, 1]),
        (2, 3, [0, 2]),
    ]


def test_smooth_tiles_become_photo_and_rough_ones_pixels() -> None:
    pixels = np.concatenate([picture("photo", 256, 128), picture("noise", 256, 128)], axis=1)
    kinds = {(block.left, block.right): block.kind for block in blocks(pixels, pixels, jpeg=True)}
    assert kinds == {(0, 4): BlockKind.PHOTO, (4, 8): BlockKind.PIXELS}
