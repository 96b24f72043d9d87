"""WireFormat: RFC 6143's PIXEL_FORMAT, checked, with the properties that the encoders need."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

import numpy as np

from vramtap.errors import ProtocolError

_PIXEL_FORMAT: Final = struct.Struct(">BBBBHHHBBB3x")
_COLOUR_MAP_LAYOUT: Final = (7, 7, 3, 5, 2, 0)
"""Layout of the index into vramtap's colour map: maxima of red, green and blue, then their shifts."""


@dataclass(frozen=True, slots=True)
class WireFormat:
    """Pixel format of one client (RFC 6143, 7.4).

    Args:
        bits_per_pixel: 8, 16 or 32.
        depth: Number of these bits that are used. CPIXEL and TPIXEL depend on it.
        big_endian: Whether the highest byte of a pixel is sent first.
        true_colour: True: a pixel holds red, green and blue. False: it is an index into a colour map.
        red_max: Maximum of red. With a colour map, maxima and shifts give the layout of the index.
        green_max: Maximum of green.
        blue_max: Maximum of blue.
        red_shift: Position of red's lowest bit in the pixel.
        green_shift: Position of green's lowest bit.
        blue_shift: Position of blue's lowest bit.

    Raises:
        ProtocolError: the fields contradict each other or RFC 6143.
    """

    bits_per_pixel: int = 32
    depth: int = 24
    big_endian: bool = False
    true_colour: bool = True
    red_max: int = 255
    green_max: int = 255
    blue_max: int = 255
    red_shift: int = 16
    green_shift: int = 8
    blue_shift: int = 0

    def __post_init__(self) -> None:
        if self.bits_per_pixel not in (8, 16, 32):
            raise _error(self, f"{self.bits_per_pixel} bits per pixel, not 8, 16 or 32")
        if self.depth > self.bits_per_pixel:
            raise _error(self, f"depth {self.depth} of {self.bits_per_pixel} bits")
        if not self.true_colour and self.bits_per_pixel != 8:
            raise _error(self, f"a colour map of {self.bits_per_pixel} bits (only 8 are supported)")
        used = 0
        for maximum, shift in self.channels:
            mask = ((1 << maximum.bit_length()) - 1) << shift
            if mask >> self.bits_per_pixel:
                raise _error(self, f"maximum {maximum} at shift {shift} passes {self.bits_per_pixel} bits")
            if mask & used:
                raise _error(self, f"maximum {maximum} at shift {shift} overlaps another colour")
            used |= mask

    @classmethod
    def parse(cls, data: bytes) -> WireFormat:
        """Return the format in a SetPixelFormat message.

        Args:
            data: The 16 bytes of its PIXEL_FORMAT.

        Raises:
            ProtocolError: the fields contradict each other or RFC 6143.
        """
        bits, depth, big, true, *channels = _PIXEL_FORMAT.unpack(data)
        if not true:
            channels = list(_COLOUR_MAP_LAYOUT)
        return cls(bits, depth, bool(big), bool(true), *channels)

    def pack(self) -> bytes:
        """Return the 16 bytes of PIXEL_FORMAT, as in ServerInit."""
        return _PIXEL_FORMAT.pack(
            self.bits_per_pixel,
            self.depth,
            self.big_endian,
            self.true_colour,
            self.red_max,
            self.green_max,
            self.blue_max,
            self.red_shift,
            self.green_shift,
            self.blue_shift,
        )

    @property
    def channels(self) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        """Maximum and shift of red, green and blue."""
        return (
            (self.red_max, self.red_shift),
            (self.green_max, self.green_shift),
            (self.blue_max, self.blue_shift),
        )

    @property
    def bytes_per_pixel(self) -> int:
        """Size of a PIXEL, bytes."""
        return self.bits_per_pixel // 8

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        """Dtype of a PIXEL, in the client's byte order."""
        return np.dtype(f"{'>' if self.big_endian else '<'}u{self.bytes_per_pixel}")

    @property
    def cpixel_offset(self) -> int | None:
        """Offset of the three bytes of a compact CPIXEL in the PIXEL on the wire. None if it keeps all bytes.

        Source: RFC 6143, 7.7.5. If the colours fit the three low and the three high bytes, the low ones are
        sent (rfbproto).
        """
        if not self.true_colour or self.bits_per_pixel != 32 or self.depth > 24:
            return None
        ends = [maximum.bit_length() + shift for maximum, shift in self.channels if maximum]
        if max(ends, default=0) <= 24:
            return 1 if self.big_endian else 0
        if all(shift >= 8 for maximum, shift in self.channels if maximum):
            return 0 if self.big_endian else 1
        return None

    @property
    def compact_tpixel(self) -> bool:
        """Whether a TPIXEL has three bytes: red, green, blue (rfbproto, Tight encoding)."""
        return (
            self.true_colour
            and self.bits_per_pixel == 32
            and self.depth == 24
            and (self.red_max, self.green_max, self.blue_max) == (255, 255, 255)
        )

    @property
    def allows_jpeg(self) -> bool:
        """Whether Tight can use JPEG: true colour of 16 or 32 bits (rfbproto, Tight encoding)."""
        return self.true_colour and self.bits_per_pixel in (16, 32)

    def __str__(self) -> str:
        """Return the format as text: `32 bpp depth 24 little-endian 255<<16 255<<8 255<<0`."""
        order = "big-endian" if self.big_endian else "little-endian"
        colours = " ".join(f"{maximum}<<{shift}" for maximum, shift in self.channels)
        kind = colours if self.true_colour else "colour map"
        return f"{self.bits_per_pixel} bpp depth {self.depth} {order} {kind}"


NATIVE: Final = WireFormat()
"""The format in ServerInit: XR24, the format of the screen's own pixels."""


def _error(wanted: WireFormat, reason: str) -> ProtocolError:
    return ProtocolError("SetPixelFormat", str(wanted), reason)
