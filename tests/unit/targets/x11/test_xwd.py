"""Xvfb's XWD header."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramtap.display.mode import MAX_DIMENSION
from vramtap.targets.x11 import xwd
from vramtap.targets.x11.xwd import XwdHeader

# As Xvfb 21.1 wrote it for a screen of 640x480x24.
SHAPE = (160, 7, 2, 24, 640, 480, 0, 0, 32, 0, 32, 32, 2560)
VISUAL = (4, 0xFF0000, 0xFF00, 0xFF, 8, 256, 256, 640, 480, 0, 0, 0)


def header(name: bytes = b"Xvfb host:0.0", changed: dict[str, int] | None = None) -> bytes:
    words = [*SHAPE, *VISUAL]
    places = {"size": 0, "version": 1, "kind": 2, "depth": 3, "width": 4, "height": 5, "x": 6, "order": 7}
    places |= {"bits": 11, "stride": 12, "colors": 19}
    for place, value in (changed or {}).items():
        words[places[place]] = value
    return struct.pack(">25I", *words) + name.ljust(60, b"\0")


def test_a_header_is_parsed() -> None:
    found = XwdHeader.parse(header())
    assert found == XwdHeader(160, 24, 640, 480, 32, 2560, 256, b"Xvfb host:0.0")
    assert found is not None
    assert found.pixels_offset == 160 + 256 * 12
    assert found.end_offset == found.pixels_offset + 2560 * 480


def test_magic_is_at_its_offset() -> None:
    assert header()[xwd.MAGIC_OFFSET :].startswith(xwd.magic(24))


@pytest.mark.parametrize(
    "changed",
    [
        {"size": 99},
        {"size": 161},
        {"version": 6},
        {"kind": 1},
        {"depth": 0},
        {"depth": 33},
        {"width": 0},
        {"width": MAX_DIMENSION + 1},
        {"height": 0},
        {"height": 0xFFFFFFFF},
        {"x": 1},
        {"order": 1},
        {"bits": 0},
        {"bits": 12},
        {"stride": 2559},
        {"stride": 0xFFFFFFFF},
        {"colors": 0},
        {"colors": 1025},
    ],
)
def test_a_header_out_of_bounds_is_rejected(changed: dict[str, int]) -> None:
    assert XwdHeader.parse(header(changed=changed)) is None


@given(st.binary(max_size=200) | st.tuples(st.just(header()[:16]), st.binary(max_size=180)).map(b"".join))
def test_any_bytes_give_a_bounded_header_or_none(data: bytes) -> None:
    found = XwdHeader.parse(data)
    assert found is None or found.end_offset < 1 << 35


@pytest.mark.parametrize(
    ("name", "screen", "fits"),
    [
        (b"Xvfb host:99.0", 0, True),
        (b"Xvfb host:99.0", 1, False),
        (b"Xvfb host:99.1", 1, True),
        (b"xterm", 0, False),
        (b"", 0, False),
        (b"Xvfb " + b"h" * 54, 3, True),
    ],
)
def test_is_screen_reads_the_window_name(name: bytes, screen: int, fits: bool) -> None:
    found = XwdHeader.parse(header(name))
    assert found is not None
    assert found.is_screen(screen) == fits


def test_a_short_palette_is_padded_with_black() -> None:
    data = struct.pack(">IHHHBB", 0, 0x1234, 0xFFFF, 0, 7, 0) + struct.pack(">IHHHBB", 1, 0, 0, 0xFF00, 7, 0)
    colors = xwd.palette(data + b"\1")
    assert colors[:3] == (0x12FF00, 0x0000FF, 0)
    assert len(colors) == 256


def test_colours_beyond_256_are_ignored() -> None:
    assert xwd.palette(b"\xff" * 12 * 300) == (0xFFFFFF,) * 256


def test_a_fixed_palette_spreads_each_channel_evenly() -> None:
    colors = xwd.fixed_palette((0x07, 0x38, 0xC0))
    assert (colors[0], colors[0x07], colors[0x38], colors[0xC0]) == (0, 0xFF0000, 0x00FF00, 0x0000FF)
    assert colors[0xFF] == 0xFFFFFF
    assert colors[0x01] == round(255 / 7) << 16


def test_a_channel_without_bits_is_black() -> None:
    assert xwd.fixed_palette((0xFF, 0, 0))[0xFF] == 0xFF0000
