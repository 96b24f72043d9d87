"""Tests of Converter: intensities are rounded to the nearest, and bytes are in the format's order."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given

from support.pictures import COLOUR_MAP, COLOUR_MAP_LAYOUT, Pixels, expected_values, pictures, pixel_formats
from vramtap.rfb.convert import Converter, colour_map, converter, flat
from vramtap.rfb.formats import NATIVE, WireFormat

if TYPE_CHECKING:
    from support.rfb_decoder import PixelFormat

ORANGE = np.array([0xFF8001], np.uint32)


def wire(wanted: PixelFormat) -> WireFormat:
    return WireFormat.parse(wanted.pack())


@pytest.mark.parametrize(
    ("wanted", "pixel", "cpixel", "tpixel"),
    [
        (NATIVE, "0180ff00", "0180ff", "ff8001"),
        (WireFormat(big_endian=True), "00ff8001", "ff8001", "ff8001"),
        (WireFormat(red_shift=0, blue_shift=16), "ff800100", "ff8001", "ff8001"),
        (WireFormat(red_shift=24, green_shift=16, blue_shift=8), "000180ff", "0180ff", "ff8001"),
        (
            WireFormat(red_shift=24, green_shift=16, blue_shift=8, big_endian=True),
            "ff800100",
            "ff8001",
            "ff8001",
        ),
        (WireFormat(depth=32), "0180ff00", "0180ff00", "0180ff00"),
        # 0x1f << 11 | round(128 * 63 / 255) << 5 | round(1 * 31 / 255)
        (WireFormat(16, 16, False, True, 31, 63, 31, 11, 5, 0), "00fc", "00fc", "00fc"),
        (WireFormat(16, 16, True, True, 31, 63, 31, 11, 5, 0), "fc00", "fc00", "fc00"),
        (WireFormat(8, 8, False, True, 7, 7, 3, 0, 3, 6), "27", "27", "27"),
        # Three channels of ten bits do not fit three bytes: 1023 << 20 | round(128 * 1023 / 255) << 10 | 4
        (WireFormat(32, 30, True, True, 1023, 1023, 1023, 20, 10, 0), "3ff80804", "3ff80804", "3ff80804"),
        # 16 used bits that fit the low and the high three bytes: the low ones are sent.
        (WireFormat(32, 16, True, True, 31, 63, 31, 19, 13, 8), "00fc0000", "fc0000", "00fc0000"),
    ],
)
def test_one_colour_gives_the_bytes_of_the_format(
    wanted: WireFormat, pixel: str, cpixel: str, tpixel: str
) -> None:
    convert = Converter(wanted)
    work = convert.working(ORANGE)
    assert convert.pixels(work).tobytes().hex() == pixel
    assert convert.cpixels(work).tobytes().hex() == cpixel
    assert convert.tpixels(work).tobytes().hex() == tpixel
    assert (convert.cpixel_bytes, convert.tpixel_bytes) == (len(cpixel) // 2, len(tpixel) // 2)


@given(pictures(40), pixel_formats())
def test_any_picture_in_any_format_equals_the_reference(pixels: Pixels, wanted: PixelFormat) -> None:
    convert = converter(wire(wanted))
    work = convert.working(pixels)
    expected = expected_values(pixels, wanted)
    assert np.array_equal(wanted.pixels(convert.pixels(work).tobytes()).reshape(pixels.shape), expected)
    assert np.array_equal(wanted.cpixels(convert.cpixels(work).tobytes()).reshape(pixels.shape), expected)
    assert np.array_equal(wanted.tpixels(convert.tpixels(work).tobytes()).reshape(pixels.shape), expected)


@given(pictures(40), pixel_formats())
def test_a_part_of_a_picture_is_converted_like_the_whole(pixels: Pixels, wanted: PixelFormat) -> None:
    convert = converter(wire(wanted))
    work = convert.working(pixels)
    rows, columns = slice(pixels.shape[0] // 3, None), slice(pixels.shape[1] // 2, None)
    for make in (convert.pixels, convert.cpixels, convert.tpixels):
        assert np.array_equal(make(work[rows, columns]), make(work)[rows, columns])


def test_xr24_is_not_copied() -> None:
    pixels = np.arange(12, dtype=np.uint32).reshape(3, 4)
    convert = converter(NATIVE)
    assert convert.is_copy
    assert np.shares_memory(np.frombuffer(flat(convert.pixels(convert.working(pixels))), np.uint8), pixels)


def test_the_colour_map_matches_the_indices() -> None:
    message = colour_map(wire(COLOUR_MAP))
    assert message[:6] == bytes.fromhex("01 00 0000 0100")
    colours = struct.unpack(">768H", message[6:])
    assert colours[:3] == (0, 0, 0)
    assert colours[-3:] == (0xFFFF, 0xFFFF, 0xFFFF)
    # Index 0b010_100_01: red 2 of 7, green 4 of 7, blue 1 of 3.
    assert colours[0b01010001 * 3 :][:3] == (2 * 65535 // 7, 4 * 65535 // 7, 65535 // 3)
    assert expected_values(ORANGE, COLOUR_MAP)[0] == COLOUR_MAP_LAYOUT.from_rgb(
        np.array([255, 128, 1], np.uint8)
    )
