"""WireFormat: the PIXEL_FORMAT a client asked for, checked, and what follows from it."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

import numpy as np

from vramtap.errors import ProtocolError

_PIXEL_FORMAT: Final = struct.Struct(">BBBBHHHBBB3x")
_COLOUR_MAP_LAYOUT: Final = (7, 7, 3, 5, 2, 0)
"""Where a colour map is wanted: red, green and blue maxima and shifts of the index into our map."""


@dataclass(frozen=True, slots=True)
class WireFormat:
    """How one client wants its pixels (RFC 6143, 7.4).

    Args:
        bits_per_pixel: 8, 16 or 32.
        depth: Useful bits of these; decides how compact CPIXEL and TPIXEL are.
        big_endian: Order of a pixel's bytes.
        true_colour: The pixel is made of three intensities; False: it is an index into a colour map.
        red_max: Greatest red value. With a colour map, the maxima and shifts tell how our map is laid out.
        green_max: Greatest green value.
        blue_max: Greatest blue value.
        red_shift: Bits that red stands left of the lowest.
        green_shift: Bits that green stands left of the lowest.
        blue_shift: Bits that blue stands left of the lowest.

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
            raise _refused(self, f"{self.bits_per_pixel} bits per pixel, not 8, 16 or 32")
        if self.depth > self.bits_per_pixel:
            raise _refused(self, f"depth {self.depth} of {self.bits_per_pixel} bits")
        if not self.true_colour and self.bits_per_pixel != 8:
            raise _refused(self, f"a colour map of {self.bits_per_pixel} bits (only 8 are supported)")
        used = 0
        for maximum, shift in self.channels:
            mask = ((1 << maximum.bit_length()) - 1) << shift
            if mask >> self.bits_per_pixel:
                raise _refused(self, f"maximum {maximum} at shift {shift} passes {self.bits_per_pixel} bits")
            if mask & used:
                raise _refused(self, f"maximum {maximum} at shift {shift} overlaps another colour")
            used |= mask

    @classmethod
    def parse(cls, data: bytes) -> WireFormat:
        """From the 16 bytes of a SetPixelFormat.

        Raises:
            ProtocolError: the fields contradict each other or RFC 6143.
        """
        bits, depth, big, true, *channels = _PIXEL_FORMAT.unpack(data)
        if not true:
            channels = list(_COLOUR_MAP_LAYOUT)
        return cls(bits, depth, bool(big), bool(true), *channels)

    def pack(self) -> bytes:
        """The 16 bytes, as ServerInit carries them."""
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
        """Of a PIXEL."""
        return self.bits_per_pixel // 8

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        """Of a PIXEL, in the client's byte order."""
        return np.dtype(f"{'>' if self.big_endian else '<'}u{self.bytes_per_pixel}")

    @property
    def cpixel_offset(self) -> int | None:
        """First byte on the wire of the three a compact CPIXEL keeps; None if it keeps all.

        Source: RFC 6143, 7.7.5; where both ends would do, the least significant bytes are sent (rfbproto).
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
        """Whether a TPIXEL is the three bytes red, green, blue (rfbproto, Tight encoding)."""
        return (
            self.true_colour
            and self.bits_per_pixel == 32
            and self.depth == 24
            and (self.red_max, self.green_max, self.blue_max) == (255, 255, 255)
        )

    @property
    def allows_jpeg(self) -> bool:
        """Whether Tight may send JPEG in it: 16 or 32 bits, true colour (rfbproto, Tight encoding)."""
        return self.true_colour and self.bits_per_pixel in (16, 32)

    def __str__(self) -> str:
        """As a log line shows it: `32 bpp depth 24 little-endian 255<<16 255<<8 255<<0`."""
        order = "big-endian" if self.big_endian else "little-endian"
        colours = " ".join(f"{maximum}<<{shift}" for maximum, shift in self.channels)
        kind = colours if self.true_colour else "colour map"
        return f"{self.bits_per_pixel} bpp depth {self.depth} {order} {kind}"


NATIVE: Final = WireFormat()
"""What ServerInit offers: the bytes of XR24, the form in which the screen is kept."""


def _refused(wanted: WireFormat, reason: str) -> ProtocolError:
    return ProtocolError("SetPixelFormat", str(wanted), reason)
