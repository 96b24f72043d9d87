"""Tests of ZRLE, byte for byte (RFC 6143, 7.7.5)."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np
import pytest

from vramtap.display.region import Rect
from vramtap.rfb.encodings.base import EncodeOptions
from vramtap.rfb.encodings.zrle import ZrleEncoder, pack_indices
from vramtap.rfb.formats import WireFormat

if TYPE_CHECKING:
    from support.pictures import Pixels

RED, GREEN, BLUE = 0xFF0000, 0x00FF00, 0x0000FF
RED_BYTES, GREEN_BYTES, BLUE_BYTES = b"\0\0\xff", b"\0\xff\0", b"\xff\0\0"
BGR233 = WireFormat(8, 8, False, True, 7, 7, 3, 0, 3, 6)


def tiles(pixels: Pixels, wire: WireFormat | None = None) -> bytes:
    """Encode one rectangle, and return the content of its zlib stream."""
    height, width = pixels.shape
    options = EncodeOptions(wire) if wire is not None else EncodeOptions()
    count, buffers = ZrleEncoder().encode(Rect(3, 4, width, height), pixels, options)
    data = b"".join(buffers)
    assert count == 1
    assert data[:12] == struct.pack(">HHHHi", 3, 4, width, height, 16)
    (length,) = struct.unpack(">I", data[12:16])
    assert length == len(data) - 16
    return zlib.decompressobj().decompress(data[16:])


def line(*runs: tuple[int, int]) -> Pixels:
    """Return a tile 64 pixels wide, made of runs (colour, length). Their sum is a multiple of 64."""
    colours, lengths = zip(*runs, strict=True)
    return np.repeat(np.array(colours, np.uint32), lengths).reshape(-1, 64)


def test_one_colour_gives_a_solid_tile() -> None:
    assert tiles(np.full((64, 64), RED, np.uint32)) == b"\1" + RED_BYTES
    assert tiles(np.full((1, 1), BLUE, np.uint32), BGR233) == b"\1\xc0"


def test_tiles_are_sent_row_by_row_and_the_last_ones_are_smaller() -> None:
    pixels = np.full((65, 130), RED, np.uint32)
    pixels[:64, 64:128] = GREEN
    pixels[64:, 128:] = BLUE
    red, green, blue = b"\1" + RED_BYTES, b"\1" + GREEN_BYTES, b"\1" + BLUE_BYTES
    assert tiles(pixels) == red + green + red + red + red + blue


def test_two_colours_take_one_bit_per_pixel_and_whole_bytes_per_row() -> None:
    pixels = np.array([[BLUE, RED] * 5, [RED] * 9 + [BLUE]], np.uint32)
    # The palette is in ascending order, so blue is index 0.
    packed = bytes([0b01010101, 0b01000000, 0b11111111, 0b10000000])
    assert tiles(pixels) == b"\2" + BLUE_BYTES + RED_BYTES + packed


def test_three_colours_take_two_bits() -> None:
    pixels = np.tile(np.array([BLUE, GREEN, RED, GREEN, RED], np.uint32), (3, 1))
    palette = BLUE_BYTES + GREEN_BYTES + RED_BYTES
    assert tiles(pixels) == b"\3" + palette + bytes([0b00011001, 0b10000000]) * 3


def test_five_colours_take_four_bits() -> None:
    pixels = np.tile(np.array([[1, 2, 3, 4, 5, 4, 2]], np.uint32), (4, 1))
    palette = b"".join(bytes([colour, 0, 0]) for colour in range(1, 6))
    assert tiles(pixels) == b"\5" + palette + bytes.fromhex("01 23 43 10") * 4


def test_many_colours_give_a_raw_tile() -> None:
    pixels = (np.arange(20 * 20, dtype=np.uint32) * 7919).reshape(20, 20)
    assert tiles(pixels) == b"\0" + b"".join(int(pixel).to_bytes(3, "little") for pixel in pixels.ravel())


@pytest.mark.parametrize(
    ("length", "written"),
    [(1, "00"), (2, "01"), (255, "fe"), (256, "ff00"), (257, "ff01"), (510, "fffe"), (511, "ffff00")],
)
def test_run_lengths_equal_the_table_of_rfc_6143(length: int, written: str) -> None:
    rest = 1024 - length
    data = tiles(line((RED, length), (GREEN, rest)))
    last = bytes([255] * ((rest - 1) // 255) + [(rest - 1) % 255])
    assert data == b"\x80" + RED_BYTES + bytes.fromhex(written) + GREEN_BYTES + last


def test_runs_continue_in_the_next_row() -> None:
    assert tiles(line((RED, 100), (GREEN, 92))) == b"\x80" + RED_BYTES + b"\x63" + GREEN_BYTES + b"\x5b"


def test_runs_of_few_colours_are_indexed_and_single_pixels_have_no_length() -> None:
    colours = [0x10101 * number for number in range(1, 21)]
    runs = [(colours[number % 20], 1 if number % 3 == 0 else 33) for number in range(96)]
    total = sum(length for _, length in runs)
    runs[-1] = (runs[-1][0], runs[-1][1] + -total % 64)
    expected = bytearray([128 + 20])
    for colour in colours:
        expected += colour.to_bytes(3, "little")
    for colour, length in runs:
        index = colours.index(colour)
        expected += bytes([index]) if length == 1 else bytes([index | 128, length - 1])
    assert tiles(line(*runs)) == bytes(expected)


@pytest.mark.parametrize(
    ("bits", "indices", "packed"),
    [
        (1, [[1, 0, 0, 0, 0, 0, 0, 1, 1]], "81 80"),
        (2, [[3, 0, 1, 2, 3]], "c6 c0"),
        (2, [[3, 0, 1, 2]], "c6"),
        (4, [[15, 1, 9], [1, 2, 3]], "f1 90 12 30"),
    ],
)
def test_the_leftmost_index_is_in_the_highest_bits(bits: int, indices: list[list[int]], packed: str) -> None:
    assert pack_indices(np.array(indices, np.uint8), bits) == bytes.fromhex(packed)


def test_the_stream_continues_in_the_next_rectangle() -> None:
    encoder, stream = ZrleEncoder(), zlib.decompressobj()
    for colour in (RED, GREEN, BLUE, RED):
        _, buffers = encoder.encode(Rect(0, 0, 8, 8), np.full((8, 8), colour, np.uint32), EncodeOptions())
        assert stream.decompress(b"".join(buffers)[16:]) == b"\1" + colour.to_bytes(3, "little")
