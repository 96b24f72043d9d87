"""Parses the XWD header that Xvfb keeps before its pixels, and the colour map.

Layout: XWDFile.h of xproto, version 7: 25 words of 32 bits, the window's name, a colour map of 12 bytes an
entry, then the pixels. Every number is big-endian, on x86 too, because Xvfb swaps them (hw/vfb/InitOutput.c).
Xvfb writes the header at its start and does not change it when RANDR resizes the screen. It keeps the colour
map equal to the installed one.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from vramtap.display.mode import MAX_DIMENSION, MAX_STRIDE_BYTES

HEADER_BYTES: Final = 100
NAME_BYTES: Final = 60
"""Size of the window's name in Xvfb's header, with its final zero (XWD_WINDOW_NAME_LEN)."""
COLOR_BYTES: Final = 12
MAX_COLORS: Final = 1024
"""Most entries of the colour map. Xvfb reserves 1024 at most (depth 30)."""

_WORDS: Final = struct.Struct(">25I")
_VERSION: Final = 7
_Z_PIXMAP: Final = 2
_LSB_FIRST: Final = 0
_COLOR: Final = np.dtype(
    [("pixel", ">u4"), ("red", ">u2"), ("green", ">u2"), ("blue", ">u2"), ("flags", "u1"), ("pad", "u1")]
)


@dataclass(frozen=True, slots=True)
class XwdHeader:
    """The fields of a header that vramtap uses, all within bounds.

    Args:
        header_bytes: Size of the header and the name. The colour map follows.
        depth: Bits of a pixel that have a meaning.
        width: Width of the pixmap, pixels.
        height: Height of the pixmap, pixels.
        bits_per_pixel: Bits that a pixel takes.
        stride_bytes: Distance from one row to the next.
        colors: Number of entries of the colour map.
        name: Name of the window, without the final zero.
    """

    header_bytes: int
    depth: int
    width: int
    height: int
    bits_per_pixel: int
    stride_bytes: int
    colors: int
    name: bytes

    @classmethod
    def parse(cls, data: bytes) -> Self | None:
        """Parse a header.

        Args:
            data: The header, and as much of the name as there is.

        Returns:
            The header; None if the bytes are not a header or a field is out of bounds.
        """
        if len(data) < HEADER_BYTES:
            return None
        words = _WORDS.unpack_from(data)
        size, version, kind, depth, width, height, x_offset, byte_order = words[:8]
        bits, stride, colors = words[11], words[12], words[19]
        if (version, kind, x_offset, byte_order) != (_VERSION, _Z_PIXMAP, 0, _LSB_FIRST):
            return None
        sane = (
            HEADER_BYTES <= size <= HEADER_BYTES + NAME_BYTES
            and 0 < width <= MAX_DIMENSION
            and 0 < height <= MAX_DIMENSION
            and 0 < depth <= bits
            and bits in (8, 16, 24, 32)
            and width * bits // 8 <= stride <= MAX_STRIDE_BYTES
            and 0 < colors <= MAX_COLORS
        )
        if not sane:
            return None
        name = data[HEADER_BYTES:size].split(b"\0")[0]
        return cls(size, depth, width, height, bits, stride, colors, name)

    @property
    def pixels_offset(self) -> int:
        """Offset of the first pixel from the start of the header."""
        return self.header_bytes + self.colors * COLOR_BYTES

    @property
    def end_offset(self) -> int:
        """Offset of the end of the last row from the start of the header."""
        return self.pixels_offset + self.stride_bytes * self.height

    def is_screen(self, number: int) -> bool:
        """Return whether the name may be that of this screen of an Xvfb: `Xvfb HOST:DISPLAY.SCREEN`.

        If the name of the host is so long that the end is cut off, every number is possible.
        """
        cut = len(self.name) >= NAME_BYTES - 1
        return self.name.startswith(b"Xvfb ") and (cut or self.name.endswith(b".%d" % number))


def magic(depth: int) -> bytes:
    """Return bytes that every header of Xvfb for this depth contains at `MAGIC_OFFSET`."""
    return struct.pack(">3I", _VERSION, _Z_PIXMAP, depth)


MAGIC_OFFSET: Final = 4
"""Offset of `magic` in the header."""


def palette(data: bytes) -> tuple[int, ...]:
    """Return the colours of a colour map.

    Args:
        data: The entries, `COLOR_BYTES` each, in the order of their pixel values.

    Returns:
        256 entries `0x00RRGGBB`. Entries that the map does not have are black.
    """
    entries = np.frombuffer(data, _COLOR, count=min(256, len(data) // COLOR_BYTES))
    colors = np.zeros(256, np.uint32)
    for channel, shift in (("red", 16), ("green", 8), ("blue", 0)):
        colors[: len(entries)] |= (entries[channel].astype(np.uint32) >> 8) << shift
    return tuple(colors.tolist())


def fixed_palette(masks: tuple[int, int, int]) -> tuple[int, ...]:
    """Return the colours of a TrueColor visual of 8 bits.

    Args:
        masks: The bits of a pixel that are its red, green and blue.

    Returns:
        256 entries `0x00RRGGBB`. The levels of a channel are spread evenly over 0 to 255.
    """
    colors = []
    for pixel in range(256):
        color = 0
        for mask in masks:
            low = (mask & -mask).bit_length() - 1 if mask else 0
            most = mask >> low
            level = (pixel & mask) >> low
            color = color << 8 | (round(level * 255 / most) if most else 0)
        colors.append(color)
    return tuple(colors)
