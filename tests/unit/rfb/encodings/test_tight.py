"""Tests of Tight, byte for byte (rfbproto)."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest

from support.pictures import Pixels, picture
from vramtap.display.region import Rect
from vramtap.rfb.encodings.base import EncodeOptions
from vramtap.rfb.encodings.tight import MAX_LENGTH, TightEncoder, compact_length
from vramtap.rfb.formats import WireFormat

RED, GREEN, BLUE = 0xFF0000, 0x00FF00, 0x0000FF
RGB565 = WireFormat(16, 16, False, True, 31, 63, 31, 11, 5, 0)


def encoded(
    pixels: Pixels, options: EncodeOptions | None = None, encoder: TightEncoder | None = None
) -> bytes:
    """Return the data of one rectangle, without its header. Fail if there are several."""
    height, width = pixels.shape
    count, buffers = (encoder or TightEncoder()).encode(
        Rect(9, 8, width, height), pixels, options or EncodeOptions()
    )
    data = b"".join(buffers)
    assert count == 1
    assert data[:12] == struct.pack(">HHHHi", 9, 8, width, height, 7)
    return data[12:]


@pytest.mark.parametrize(
    ("length", "written"),
    [
        (0, "00"),
        (127, "7f"),
        (128, "8001"),
        (10000, "904e"),
        (16383, "ff7f"),
        (16384, "808001"),
        (MAX_LENGTH, "ffffff"),
    ],
)
def test_lengths_are_compact(length: int, written: str) -> None:
    assert compact_length(length).hex() == written


def test_a_too_long_length_raises() -> None:
    with pytest.raises(AssertionError, match="4194304"):
        compact_length(MAX_LENGTH + 1)


def test_one_colour_gives_a_fill() -> None:
    pixels = np.full((100, 200), 0x123456, np.uint32)
    assert encoded(pixels) == bytes.fromhex("80 123456")
    assert encoded(pixels, EncodeOptions(WireFormat(red_shift=0, blue_shift=16))) == bytes.fromhex(
        "80 123456"
    )
    assert encoded(pixels, EncodeOptions(WireFormat(depth=32))) == bytes.fromhex("80 56341200")
    assert encoded(np.full((9, 9), RED, np.uint32), EncodeOptions(RGB565)) == bytes.fromhex("80 00f8")


def test_two_colours_take_one_bit_per_pixel_and_short_data_is_not_compressed() -> None:
    pixels = np.array([[BLUE, RED, RED, BLUE, BLUE, BLUE, BLUE, BLUE, RED]] * 3, np.uint32)
    rows = bytes([0b01100000, 0b10000000]) * 3
    # Control: stream 1 with a filter. The palette, in ascending order: blue is index 0.
    assert encoded(pixels) == bytes.fromhex("50 01 01 0000ff ff0000") + rows


def test_longer_data_of_two_colours_uses_its_own_stream() -> None:
    pixels = picture("two", 64, 64)
    data = encoded(pixels)
    low, high = sorted(np.unique(pixels).tolist())
    assert data[:9] == bytes.fromhex(f"50 01 01 {low:06x} {high:06x}")
    length, packed = data[9] & 0x7F | data[10] << 7, data[11:]
    assert len(packed) == length
    assert zlib.decompressobj().decompress(packed) == np.packbits(pixels == high).tobytes()


def test_few_colours_give_indices() -> None:
    pixels = np.array([[BLUE, GREEN, RED] * 20], np.uint32)
    data = encoded(pixels)
    assert data[:12] == bytes.fromhex("60 01 02 0000ff 00ff00 ff0000")
    assert data[12] == len(data) - 13
    assert zlib.decompressobj().decompress(data[13:]) == bytes([0, 1, 2] * 20)


def test_a_palette_longer_than_the_pixels_is_not_sent() -> None:
    pixels = np.array([[1, 2, 3]], np.uint32)
    assert encoded(pixels) == bytes.fromhex("00 000001 000002 000003")


@pytest.mark.parametrize(("count", "compressed"), [(3, False), (4, True)])
def test_data_from_twelve_bytes_is_compressed(count: int, compressed: bool) -> None:
    pixels = np.array([[0x010203, 0x040506, 0x070809, 0x0A0B0C][:count]], np.uint32)
    data = encoded(pixels)
    plain = bytes(range(1, 3 * count + 1))
    assert data[0] == 0
    if compressed:
        assert data[1] == len(data) - 2
        assert zlib.decompressobj().decompress(data[2:]) == plain
    else:
        assert data[1:] == plain


def test_a_new_compression_level_resets_its_stream() -> None:
    encoder = TightEncoder()
    pixels = picture("noise", 20, 20)
    controls = [
        encoded(pixels, EncodeOptions(compression=level), encoder)[0] for level in (None, None, 2, 2, 9)
    ]
    assert controls == [0, 0, 1, 0, 1]
    assert encoded(picture("two", 64, 64), EncodeOptions(compression=1), encoder)[0] == 0x50
    assert encoded(picture("two", 64, 64), EncodeOptions(compression=9), encoder)[0] == 0x52


def test_jpeg_is_a_length_and_a_jfif_image() -> None:
    data = encoded(picture("photo", 128, 128), EncodeOptions(quality=5))
    assert data[0] == 0x90
    length = data[1] & 0x7F | (data[2] & 0x7F) << 7
    assert data[3:5] == b"\xff\xd8"
    assert data[-2:] == b"\xff\xd9"
    assert len(data) == 3 + length


def test_wide_rectangles_are_split() -> None:
    count, buffers = TightEncoder().encode(
        Rect(5, 0, 5000, 1), np.full((1, 5000), RED, np.uint32), EncodeOptions()
    )
    data = b"".join(buffers)
    headers = [struct.unpack(">HHHHi", data[at : at + 12]) for at in range(0, len(data), 16)]
    assert count == 3
    assert headers == [(5, 0, 2048, 1, 7), (2053, 0, 2048, 1, 7), (4101, 0, 904, 1, 7)]
