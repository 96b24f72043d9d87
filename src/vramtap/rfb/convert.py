"""Converter: from the screen's pixels to the bytes of one client's format. It converts whole arrays."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vramtap.rfb.wire import COLOUR_MAP_HEADER, Buffer, ServerMessage

if TYPE_CHECKING:
    from vramtap.rfb.formats import WireFormat

WorkingPixels: TypeAlias = NDArray[np.unsignedinteger[Any]]
"""Pixels in the form that the encoders compare: see `Converter.working`."""

_XR24_BYTE_OF_COLOUR: Final = (2, 1, 0)
"""Byte of red, green and blue in XR24. In memory XR24 is blue, green, red, 0: vramtap needs a little-endian
machine."""
_BLANK_XR24_BYTE: Final = 3
"""Byte of XR24 that is always 0. It fills the bytes of a PIXEL that hold no colour."""


class Converter:
    """Converts pixels `0x00RRGGBB` to the bytes of one format, in two steps.

    First `working` makes the pixels that the encoders compare with each other. Formats of 8 and 16 bits
    have fewer colours than the screen, so runs get longer and palettes smaller. For 32 bits this step does
    nothing. Then `pixels`, `cpixels` or `tpixels` converts what remains, such as a palette or a raw tile.

    Intensities are rounded to the nearest one of the format.

    Args:
        wire: The client's format.
    """

    def __init__(self, wire: WireFormat) -> None:
        self.format: Final = wire
        self._wire_order = _wire_order(wire)
        self._cpixel_at = wire.cpixel_offset
        self.cpixel_bytes: Final = wire.bytes_per_pixel if self._cpixel_at is None else 3
        self.tpixel_bytes: Final = 3 if wire.compact_tpixel else wire.bytes_per_pixel
        self.is_copy: Final = self._wire_order == (0, 1, 2, _BLANK_XR24_BYTE)
        """Whether PIXELs equal XR24, so that nothing is converted."""
        self._tables = None if self._wire_order else _tables(wire)

    def working(self, pixels: NDArray[np.uint32]) -> WorkingPixels:
        """Return the pixels to compare: XR24 for 32 bits, else the client's values in native byte order.

        Args:
            pixels: Any shape, `0x00RRGGBB`.

        Returns:
            The same shape, contiguous.
        """
        if self.format.bits_per_pixel == 32 or self._tables is None:
            return np.ascontiguousarray(pixels)
        return self._look_up(pixels)

    def pixels(self, work: WorkingPixels) -> NDArray[np.uint8]:
        """Return PIXELs (RFC 6143, 7.4).

        Args:
            work: Pixels made by `working`, any shape.

        Returns:
            The shape of `work`, with an axis for the bytes of a PIXEL.
        """
        if self.is_copy:
            return _bytes_of(work)
        if self._wire_order is not None:
            return _pick(_bytes_of(work), self._wire_order)
        values = self._look_up(work) if self.format.bits_per_pixel == 32 else work
        return _bytes_of(values.astype(self.format.dtype, copy=False))

    def cpixels(self, work: WorkingPixels) -> NDArray[np.uint8]:
        """Return CPIXELs (RFC 6143, 7.7.5): the shape of `work`, with an axis of `cpixel_bytes`."""
        first = self._cpixel_at
        if first is None:
            return self.pixels(work)
        if self._wire_order is not None:
            return _pick(_bytes_of(work), self._wire_order[first : first + 3])
        return np.ascontiguousarray(self.pixels(work)[..., first : first + 3])

    def tpixels(self, work: WorkingPixels) -> NDArray[np.uint8]:
        """Return TPIXELs (rfbproto, Tight encoding): the shape of `work`, with an axis of `tpixel_bytes`."""
        if self.format.compact_tpixel:
            return _pick(_bytes_of(work), _XR24_BYTE_OF_COLOUR)
        return self.pixels(work)

    def _look_up(self, pixels: WorkingPixels) -> WorkingPixels:
        assert self._tables is not None
        red, green, blue = self._tables
        channels = _bytes_of(np.ascontiguousarray(pixels))
        values = red[channels[..., 2]]
        values |= green[channels[..., 1]]
        values |= blue[channels[..., 0]]
        return values


@lru_cache(maxsize=16)
def converter(wire: WireFormat) -> Converter:
    """Return the converter for a format. Connections share it, since it has no state."""
    return Converter(wire)


def colour_map(wire: WireFormat) -> bytes:
    """Return the SetColourMapEntries message for the indices that `Converter` makes.

    Source: RFC 6143, 7.6.2: each channel has 16 bits.
    """
    index = np.arange(256, dtype=np.uint32)
    colours = np.empty((256, 3), dtype=">u2")
    for column, (maximum, shift) in enumerate(wire.channels):
        colours[:, column] = (index >> shift & maximum) * 0xFFFF // maximum
    return COLOUR_MAP_HEADER.pack(ServerMessage.SET_COLOUR_MAP_ENTRIES, 0, 256) + colours.tobytes()


def flat(array: NDArray[np.uint8]) -> Buffer:
    """Return the bytes of an array in C order. They are copied only if the array is not contiguous."""
    return np.ascontiguousarray(array).data.cast("B") if array.size else b""


def _wire_order(wire: WireFormat) -> tuple[int, ...] | None:
    """Return the byte of XR24 for each byte on the wire. None if a channel is not a whole byte."""
    if wire.bits_per_pixel != 32 or any(maximum != 255 or shift % 8 for maximum, shift in wire.channels):
        return None
    order = [_BLANK_XR24_BYTE] * 4
    for byte, (_, shift) in zip(_XR24_BYTE_OF_COLOUR, wire.channels, strict=True):
        order[shift // 8] = byte
    return tuple(reversed(order)) if wire.big_endian else tuple(order)


def _tables(wire: WireFormat) -> tuple[WorkingPixels, WorkingPixels, WorkingPixels]:
    """Return three tables, for red, green and blue: from intensity 0..255 to the bits of a PIXEL."""
    native = wire.dtype.newbyteorder("=")
    level = np.arange(256, dtype=np.uint64)
    red, green, blue = (
        ((level * np.uint64(maximum) + np.uint64(127)) // np.uint64(255) << np.uint64(shift)).astype(native)
        for maximum, shift in wire.channels
    )
    return red, green, blue


def _bytes_of(values: WorkingPixels) -> NDArray[np.uint8]:
    """Return a view of contiguous values, with a new last axis for the bytes of each value."""
    return values.view(np.uint8).reshape(*values.shape, values.itemsize)


def _pick(channels: NDArray[np.uint8], order: tuple[int, ...]) -> NDArray[np.uint8]:
    """Rearrange the last axis. One strided copy per byte is five times faster than one fancy index."""
    picked = np.empty((*channels.shape[:-1], len(order)), dtype=np.uint8)
    for to, taken in enumerate(order):
        picked[..., to] = channels[..., taken]
    return picked
