"""Blocks: they cover the rectangle once, hold what they say, and stay within Tight's limits."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.pictures import Pixels, picture, pictures
from vramtap.rfb.encodings.blocks import MAX_AREA, MAX_COLOURS, MAX_WIDTH, Kind, blocks
from vramtap.rfb.encodings.tiles import TILE


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(pictures(300), st.booleans())
def test_blocks_cover_once_and_hold_what_they_say(pixels: Pixels, jpeg: bool) -> None:
    height, width = pixels.shape
    covered = np.zeros(pixels.shape, np.uint8)
    for block in blocks(pixels, pixels, jpeg):
        rect = block.pixels(width, height)
        covered[rect.slices] += 1
        colours = set(np.unique(pixels[rect.slices]).tolist())
        match block.kind:
            case Kind.SOLID:
                assert colours == block.colours
                assert len(colours) == 1
            case Kind.COLOURS:
                assert colours == block.colours
                assert 2 <= len(colours) <= MAX_COLOURS
            case Kind.PHOTO:
                assert jpeg
                assert len(colours) > 64
            case Kind.PIXELS:
                assert len(colours) > MAX_COLOURS
    assert (covered == 1).all()


def test_blocks_stay_within_the_limits() -> None:
    for kind in ("solid", "two", "many", "noise", "photo"):
        pixels = picture(kind, 4200, 700)
        for block in blocks(pixels, pixels, jpeg=True):
            rect = block.pixels(4200, 700)
            assert rect.width <= MAX_WIDTH
            assert block.kind is Kind.SOLID or rect.area <= MAX_AREA


def test_two_colours_are_not_joined_with_more() -> None:
    pixels = np.zeros((TILE, 3 * TILE), np.uint32)
    pixels[::2, :TILE] = 1
    pixels[::2, TILE : 2 * TILE] = 1
    pixels[::2, 2 * TILE :] = 2
    found = blocks(pixels, pixels, jpeg=False)
    assert [(block.left, block.right, sorted(block.colours)) for block in found] == [
        (0, 2, [0, 1]),
        (2, 3, [0, 2]),
    ]


def test_smooth_and_rough_parts_are_told_apart() -> None:
    pixels = np.concatenate([picture("photo", 256, 128), picture("noise", 256, 128)], axis=1)
    kinds = {(block.left, block.right): block.kind for block in blocks(pixels, pixels, jpeg=True)}
    assert kinds == {(0, 4): Kind.PHOTO, (4, 8): Kind.PIXELS}
