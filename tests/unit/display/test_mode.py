"""Tests of Mode: every value is checked."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.region_reference import modes
from vramtap.display.mode import MAX_DIMENSION, MAX_PIXELS, MAX_STRIDE_BYTES, Mode, PixelFormat
from vramtap.errors import ModeError
from vramtap.pages import PAGE_SIZE

ANY = st.integers(-(2**40), 2**40)
NEAR = st.integers(-2, 40_000)


@given(st.one_of(ANY, NEAR), st.one_of(ANY, NEAR), st.one_of(ANY, NEAR), st.sampled_from(PixelFormat), ANY)
def test_a_mode_raises_or_all_its_values_are_within_bounds(
    width: int, height: int, stride: int, pixel_format: PixelFormat, offset: int
) -> None:
    palette = (0,) * 256 if pixel_format is PixelFormat.C8 else None
    row_bytes = width * pixel_format.bytes_per_pixel
    sense = (
        0 < width <= MAX_DIMENSION
        and 0 < height <= MAX_DIMENSION
        and width * height <= MAX_PIXELS
        and row_bytes <= stride <= MAX_STRIDE_BYTES
        and 0 <= offset <= 1 << 48
    )
    if sense:
        assert Mode(width, height, stride, pixel_format, offset, palette).stride_bytes == stride
    else:
        with pytest.raises(ModeError, match="is outside"):
            Mode(width, height, stride, pixel_format, offset, palette)


@given(modes())
def test_the_windows_first_and_last_page_hold_pixels(mode: Mode) -> None:
    first, last = mode.window
    assert first * PAGE_SIZE <= mode.offset_bytes < (first + 1) * PAGE_SIZE
    assert (last - 1) * PAGE_SIZE < mode.end_bytes <= last * PAGE_SIZE
    assert mode.fit(mode.end_bytes) is mode
    with pytest.raises(
        ModeError, match=rf"needs {mode.end_bytes} bytes, the extent has {mode.end_bytes - 1}"
    ):
        mode.fit(mode.end_bytes - 1)


def test_a_palette_belongs_to_c8_and_has_256_colors() -> None:
    mode = Mode(1, 1, 1, PixelFormat.C8, palette=(0,) * 256)
    for palette, complaint in (
        (None, "belongs to the format C8"),
        ((0,) * 255, "has 255 entries"),
        ((0,) * 255 + (1 << 24,), "not a 24-bit colour"),
        ((0,) * 255 + (-1,), "not a 24-bit colour"),
    ):
        with pytest.raises(ModeError, match=complaint):
            replace(mode, palette=palette)
    with pytest.raises(ModeError, match="belongs to the format C8"):
        Mode(1, 1, 4, palette=(0,) * 256)


def test_str_shows_size_format_stride_and_offset() -> None:
    assert str(Mode(1024, 768, 4096)) == "1024x768 XR24 stride 4096 offset 0"
