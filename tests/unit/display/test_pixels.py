"""Tests of the pixel conversion, against the slow reference and against colors calculated by hand."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.region_reference import decode, modes
from vramtap.display import pixels as module
from vramtap.display.mode import Mode, PixelFormat
from vramtap.display.pixels import to_rgb, to_xr24


@given(modes(max_width=70, max_height=12, max_padding=20), st.integers(0, 2**32 - 1))
def test_every_format_equals_the_reference(mode: Mode, seed: int) -> None:
    memory = random.Random(seed).randbytes(mode.end_bytes)
    rows = np.ndarray(
        (mode.height, mode.width * mode.format.bytes_per_pixel),
        dtype=np.uint8,
        buffer=memory,
        offset=mode.offset_bytes,
        strides=(mode.stride_bytes, 1),
    )
    assert np.array_equal(to_xr24(rows, mode), decode(memory, mode))


@pytest.mark.parametrize("pixel_format", [PixelFormat.RG16, PixelFormat.XR15], ids=lambda f: f.fourcc)
def test_every_16_bit_value_equals_the_reference(pixel_format: PixelFormat) -> None:
    mode = Mode(256, 256, 512, pixel_format)
    memory = np.arange(1 << 16, dtype="<u2").tobytes()
    found = to_xr24(np.frombuffer(memory, dtype=np.uint8).reshape(256, 512), mode)
    assert np.array_equal(found, decode(memory, mode))


@pytest.mark.parametrize(
    ("pixel_format", "data", "color"),
    [
        (PixelFormat.XR24, b"\x11\x22\x33\xff", 0x332211),
        (PixelFormat.AR24, b"\x11\x22\x33\x00", 0x332211),
        (PixelFormat.XB24, b"\x11\x22\x33\xff", 0x112233),
        (PixelFormat.RG24, b"\x11\x22\x33", 0x332211),
        (PixelFormat.RG16, b"\x00\xf8", 0xFF0000),
        (PixelFormat.RG16, b"\xe0\x07", 0x00FF00),
        (PixelFormat.RG16, b"\x1f\x00", 0x0000FF),
        (PixelFormat.RG16, b"\x21\x08", 0x080408),
        (PixelFormat.XR15, b"\x00\xfc", 0xFF0000),
        (PixelFormat.XR15, b"\xe0\x03", 0x00FF00),
        (PixelFormat.XR15, b"\x10\x80", 0x000084),
    ],
)
def test_known_bytes_give_known_colors(pixel_format: PixelFormat, data: bytes, color: int) -> None:
    raw = np.frombuffer(data, dtype=np.uint8).reshape(1, -1)
    assert to_xr24(raw, Mode(1, 1, len(data), pixel_format)).tolist() == [[color]]


@pytest.mark.parametrize("pixel_format", PixelFormat, ids=lambda f: f.fourcc)
def test_conversion_in_several_steps_equals_the_reference(
    pixel_format: PixelFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = pixel_format.bytes_per_pixel
    palette = tuple(range(256)) if pixel_format is PixelFormat.C8 else None
    mode = Mode(50, 23, 50 * size, pixel_format, palette=palette)
    memory = random.Random(1).randbytes(mode.end_bytes)
    raw = np.frombuffer(memory, dtype=np.uint8).reshape(23, -1)
    monkeypatch.setattr(module, "_CHUNK_PIXELS", 120)
    out = np.empty((23, 50), dtype=np.uint32)
    assert to_xr24(raw, mode, out) is out
    assert np.array_equal(out, decode(memory, mode))


def test_padding_of_rows_is_ignored() -> None:
    raw = np.arange(24, dtype=np.uint8).reshape(2, 12)
    mode = Mode(2, 2, 12)
    assert np.array_equal(to_xr24(raw, mode), decode(raw.tobytes(), mode))


def test_no_rows_give_no_pixels() -> None:
    assert to_xr24(np.empty((0, 8), dtype=np.uint8), Mode(2, 5, 8)).shape == (0, 2)


def test_wrong_shapes_raise() -> None:
    mode = Mode(2, 5, 8)
    with pytest.raises(ValueError, match="too short for the 8 bytes of 2x5 XR24"):
        to_xr24(np.empty((3, 7), dtype=np.uint8), mode)
    with pytest.raises(ValueError, match=r"\(3, 2\) pixels do not go into shape \(2, 2\)"):
        to_xr24(np.empty((3, 8), dtype=np.uint8), mode, np.empty((2, 2), dtype=np.uint32))


def test_to_rgb_returns_red_green_blue() -> None:
    rgb = to_rgb(np.array([[0x112233, 0xAABBCC]], dtype=np.uint32))
    assert rgb.tolist() == [[[0x11, 0x22, 0x33], [0xAA, 0xBB, 0xCC]]]
