"""The XWD header that Xvfb keeps before its pixels, wherever it keeps them.

Layout: XWDFile.h of xproto, version 7: 25 words of 32 bits, the window's name, a colour map of 12 bytes an
entry, then the pixels. Every number is big-endian on x86 too: Xvfb swaps them (hw/vfb/InitOutput.c). Xvfb
writes the header when it starts and does not change it when RANDR resizes the screen; the colour map
follows the one that is installed.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from vramtap.display.mode import MAX_DIMENSION, MAX_STRIDE_BYTES

HEADER_BYTES: Final = 100
NAME_BYTES: Final = 60
"""Of the window's name in Xvfb's header, its final zero included (XWD_WINDOW_NAME_LEN)."""
COLOR_BYTES: Final = 12
MAX_COLORS: Final = 1024
"""Entries of the colour map; Xvfb reserves at most 1024 (depth 30)."""

_WORDS: Final = struct.Struct(">25I")
_VERSION: Final = 7
_Z_PIXMAP: Final = 2
_LSB_FIRST: Final = 0
_COLOR: Final = np.dtype(
    [("pixel", ">u4"), ("red", ">u2"), ("green", ">u2"), ("blue", ">u2"), ("flags", "u1"), ("pad", "u1")]
)


@dataclass(frozen=True, slots=True)
class XwdHeader:
    """What a header says that matters here; within bounds.

    Args:
        header_bytes: Of the header and the name; the colour map follows.
        depth: Bits of a pixel that count.
        width: Of the pixmap, pixels.
        height: Of the pixmap, pixels.
        bits_per_pixel: That a pixel takes.
        stride_bytes: From one row to the next.
        colors: Entries of the colour map.
        name: The window's name, without the final zero.
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
        """Read a header.

        Args:
            data: At least `HEADER_BYTES`; the name, as far as it is there.

        Returns:
            The header, or None if these bytes are none or its numbers are out of bounds.
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
        """Of the first pixel, from the start of the header."""
        return self.header_bytes + self.colors * COLOR_BYTES

    @property
    def end_offset(self) -> int:
        """Past the last row, from the start of the header."""
        return self.pixels_offset + self.stride_bytes * self.height

    def is_screen(self, number: int) -> bool:
        """Whether the name can be that of this screen of an Xvfb: `Xvfb HOST:DISPLAY.SCREEN`.

        A host's name may be so long that the end is cut off; then every number is possible.
        """
        cut = len(self.name) >= NAME_BYTES - 1
        return self.name.startswith(b"Xvfb ") and (cut or self.name.endswith(b".%d" % number))


def magic(depth: int) -> bytes:
    """The bytes from the fifth on that begin every header of Xvfb for this depth."""
    return struct.pack(">3I", _VERSION, _Z_PIXMAP, depth)


MAGIC_OFFSET: Final = 4
"""Where in the header `magic` stands."""


def palette(data: bytes) -> tuple[int, ...]:
    """The colours of a colour map.

    Args:
        data: The entries, `COLOR_BYTES` each, in the order of their pixel values.

    Returns:
        256 entries `0x00RRGGBB`, black where the map has none.
    """
    entries = np.frombuffer(data, _COLOR, count=min(256, len(data) // COLOR_BYTES))
    colors = np.zeros(256, np.uint32)
    for channel, shift in (("red", 16), ("green", 8), ("blue", 0)):
        colors[: len(entries)] |= (entries[channel].astype(np.uint32) >> 8) << shift
    return tuple(colors.tolist())


def fixed_palette(masks: tuple[int, int, int]) -> tuple[int, ...]:
    """The colours of a TrueColor visual of 8 bits.

    Args:
        masks: Which bits of a pixel are its red, green and blue.

    Returns:
        256 entries `0x00RRGGBB`; a channel's levels are spread evenly over 0 to 255.
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
