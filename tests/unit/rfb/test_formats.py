"""Tests of WireFormat: its sixteen bytes, invalid formats, and compact pixels."""

from __future__ import annotations

import pytest
from hypothesis import given

from support.pictures import pixel_formats
from support.rfb_decoder import PixelFormat
from vramtap.errors import ProtocolError
from vramtap.rfb.formats import NATIVE, WireFormat

NATIVE_BYTES = bytes.fromhex("20180001 00ff00ff00ff 100800 000000")
BIG = {"big_endian": True}


def test_native_packs_to_xr24() -> None:
    assert NATIVE.pack() == NATIVE_BYTES
    assert WireFormat.parse(NATIVE_BYTES) == NATIVE


@given(pixel_formats())
def test_every_valid_format_is_accepted(wanted: PixelFormat) -> None:
    parsed = WireFormat.parse(wanted.pack())
    assert parsed.bits_per_pixel == wanted.bits_per_pixel
    assert parsed.dtype == wanted.dtype
    if wanted.true_colour:
        assert parsed.pack() == wanted.pack()


def test_a_flag_is_true_for_any_nonzero_value() -> None:
    data = bytearray(NATIVE_BYTES)
    data[2] = data[3] = 0x80
    assert WireFormat.parse(bytes(data)) == WireFormat(big_endian=True)


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (PixelFormat(24, 24), "24 bits per pixel, not 8, 16 or 32"),
        (PixelFormat(0, 0), "0 bits per pixel"),
        (PixelFormat(16, 24, maxima=(31, 63, 31), shifts=(11, 5, 0)), "depth 24 of 16 bits"),
        (PixelFormat(shifts=(25, 8, 0)), "maximum 255 at shift 25 passes 32 bits"),
        (PixelFormat(shifts=(255, 8, 0)), "maximum 255 at shift 255 passes 32 bits"),
        (PixelFormat(8, 8, maxima=(65535, 7, 3)), "maximum 65535 at shift 16 passes 8 bits"),
        (PixelFormat(shifts=(16, 15, 0)), "maximum 255 at shift 15 overlaps another colour"),
        (PixelFormat(16, 16, true_colour=False), "a colour map of 16 bits"),
    ],
)
def test_contradicting_fields_raise(wanted: PixelFormat, reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason):
        WireFormat.parse(wanted.pack())


def test_a_colour_map_ignores_the_clients_maxima_and_shifts() -> None:
    parsed = WireFormat.parse(
        PixelFormat(8, 8, true_colour=False, maxima=(9999, 1, 2), shifts=(99, 98, 97)).pack()
    )
    assert parsed.channels == ((7, 5), (7, 2), (3, 0))
    assert not parsed.true_colour


@pytest.mark.parametrize(
    ("wire", "first_byte"),
    [
        (NATIVE, 0),
        (WireFormat(big_endian=True), 1),
        (WireFormat(red_shift=24, green_shift=16, blue_shift=8), 1),
        (WireFormat(red_shift=24, green_shift=16, blue_shift=8, big_endian=True), 0),
        # The colours fit the low and the high three bytes: the low ones are sent.
        (WireFormat(red_max=31, green_max=63, blue_max=31, red_shift=19, green_shift=13, blue_shift=8), 0),
        (WireFormat(depth=16, red_max=31, green_max=63, blue_max=31, red_shift=11, green_shift=5), 0),
        # More than 24 used bits, or bits in the low and the high byte: four bytes.
        (WireFormat(depth=32), None),
        (WireFormat(red_shift=24), None),
        (WireFormat(16, 16, red_max=31, green_max=63, blue_max=31, red_shift=11, green_shift=5), None),
        (WireFormat(8, 8, True, False, 7, 7, 3, 5, 2, 0), None),
    ],
)
def test_cpixel_offset_follows_rfc_6143(wire: WireFormat, first_byte: int | None) -> None:
    assert wire.cpixel_offset == first_byte


@pytest.mark.parametrize(
    ("wire", "compact", "jpeg"),
    [
        (NATIVE, True, True),
        (WireFormat(big_endian=True, red_shift=24, green_shift=0, blue_shift=8), True, True),
        (WireFormat(depth=32), False, True),
        (WireFormat(depth=23), False, True),
        (WireFormat(red_max=127), False, True),
        (WireFormat(16, 16, red_max=31, green_max=63, blue_max=31, red_shift=11, green_shift=5), False, True),
        (
            WireFormat(8, 8, red_max=7, green_max=7, blue_max=3, red_shift=0, green_shift=3, blue_shift=6),
            False,
            False,
        ),
        (WireFormat(8, 8, False, False, 7, 7, 3, 5, 2, 0), False, False),
    ],
)
def test_compact_tpixel_and_allows_jpeg_follow_rfbproto(wire: WireFormat, compact: bool, jpeg: bool) -> None:
    assert wire.compact_tpixel is compact
    assert wire.allows_jpeg is jpeg


def test_str_shows_the_format() -> None:
    assert str(NATIVE) == "32 bpp depth 24 little-endian 255<<16 255<<8 255<<0"
    assert (
        str(WireFormat.parse(PixelFormat(8, 8, true_colour=False).pack()))
        == "8 bpp depth 8 little-endian colour map"
    )
