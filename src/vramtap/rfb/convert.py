"""Converter: pixels of the screen to the bytes of one client's format, whole arrays at a time."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vramtap.rfb.wire import COLOUR_MAP_HEADER, Buffer, FromServer

if TYPE_CHECKING:
    from vramtap.rfb.formats import WireFormat

Work: TypeAlias = NDArray[np.unsignedinteger[Any]]
"""Pixels as the encoders look at them: see `Converter.work`."""

_XR24_BYTE_OF_COLOUR: Final = (2, 1, 0)
"""In memory XR24 is blue, green, red, 0 (little-endian machines, the only ones we run on)."""
_BLANK_XR24_BYTE: Final = 3
"""Always 0: what fills the bytes of a pixel that carry no colour."""


class Converter:
    """Pixels `0x00RRGGBB` to the bytes of one format, in two steps.

    `work` comes first, before pixels are compared with each other: formats of 8 and 16 bits have
    fewer colours than the screen, so runs and palettes get better. For 32 bits it does nothing.
    What survives (a palette, a raw tile) is then made into bytes.

    Intensities are rounded to the nearest that the format has.

    Args:
        wire: What the client asked for.
    """

    def __init__(self, wire: WireFormat) -> None:
        self.format: Final = wire
        self._wire_order = _wire_order(wire)
        self._cpixel_at = wire.cpixel_offset
        self.cpixel_bytes: Final = wire.bytes_per_pixel if self._cpixel_at is None else 3
        self.tpixel_bytes: Final = 3 if wire.compact_tpixel else wire.bytes_per_pixel
        self.is_copy: Final = self._wire_order == (0, 1, 2, _BLANK_XR24_BYTE)
        """Whether PIXELs are XR24 unchanged."""
        self._tables = None if self._wire_order else _tables(wire)

    def work(self, pixels: NDArray[np.uint32]) -> Work:
        """What encoders compare: XR24 for 32 bits, else the client's pixel values in native order.

        Args:
            pixels: Any shape, `0x00RRGGBB`.

        Returns:
            The same shape; contiguous.
        """
        if self.format.bits_per_pixel == 32 or self._tables is None:
            return np.ascontiguousarray(pixels)
        return self._look_up(pixels)

    def pixels(self, work: Work) -> NDArray[np.uint8]:
        """PIXELs.

        Args:
            work: Any shape.

        Returns:
            Shape of `work` and bytes of a pixel.
        """
        if self.is_copy:
            return _bytes_of(work)
        if self._wire_order is not None:
            return _pick(_bytes_of(work), self._wire_order)
        values = self._look_up(work) if self.format.bits_per_pixel == 32 else work
        return _bytes_of(values.astype(self.format.dtype, copy=False))

    def cpixels(self, work: Work) -> NDArray[np.uint8]:
        """CPIXELs (RFC 6143, 7.7.5), shape of `work` and `cpixel_bytes`."""
        first = self._cpixel_at
        if first is None:
            return self.pixels(work)
        if self._wire_order is not None:
            return _pick(_bytes_of(work), self._wire_order[first : first + 3])
        return np.ascontiguousarray(self.pixels(work)[..., first : first + 3])

    def tpixels(self, work: Work) -> NDArray[np.uint8]:
        """TPIXELs (rfbproto, Tight encoding), shape of `work` and `tpixel_bytes`."""
        if self.format.compact_tpixel:
            return _pick(_bytes_of(work), _XR24_BYTE_OF_COLOUR)
        return self.pixels(work)

    def _look_up(self, pixels: Work) -> Work:
        assert self._tables is not None
        red, green, blue = self._tables
        channels = _bytes_of(np.ascontiguousarray(pixels))
        values = red[channels[..., 2]]
        values |= green[channels[..., 1]]
        values |= blue[channels[..., 0]]
        return values


@lru_cache(maxsize=16)
def converter(wire: WireFormat) -> Converter:
    """The converter for a format; converters hold no state of a connection and are shared."""
    return Converter(wire)


def colour_map(wire: WireFormat) -> bytes:
    """The SetColourMapEntries that makes the client's indices mean what `Converter` uses them for.

    Source: RFC 6143, 7.6.2: 16 bits a colour.
    """
    index = np.arange(256, dtype=np.uint32)
    colours = np.empty((256, 3), dtype=">u2")
    for column, (maximum, shift) in enumerate(wire.channels):
        colours[:, column] = (index >> shift & maximum) * 0xFFFF // maximum
    return COLOUR_MAP_HEADER.pack(FromServer.SET_COLOUR_MAP, 0, 256) + colours.tobytes()


def flat(array: NDArray[np.uint8]) -> Buffer:
    """The bytes of an array in order, copied only if they do not already lie so."""
    return np.ascontiguousarray(array).data.cast("B") if array.size else b""


def _wire_order(wire: WireFormat) -> tuple[int, ...] | None:
    """Which byte of XR24 each byte on the wire is, for formats where all are whole bytes; else None."""
    if wire.bits_per_pixel != 32 or any(maximum != 255 or shift % 8 for maximum, shift in wire.channels):
        return None
    order = [_BLANK_XR24_BYTE] * 4
    for byte, (_, shift) in zip(_XR24_BYTE_OF_COLOUR, wire.channels, strict=True):
        order[shift // 8] = byte
    return tuple(reversed(order)) if wire.big_endian else tuple(order)


def _tables(wire: WireFormat) -> tuple[Work, Work, Work]:
    """For red, green and blue: the bits of the client's pixel for each intensity 0..255."""
    native = wire.dtype.newbyteorder("=")
    level = np.arange(256, dtype=np.uint64)
    red, green, blue = (
        ((level * np.uint64(maximum) + np.uint64(127)) // np.uint64(255) << np.uint64(shift)).astype(native)
        for maximum, shift in wire.channels
    )
    return red, green, blue


def _bytes_of(values: Work) -> NDArray[np.uint8]:
    """A view of contiguous values with an axis more: the bytes of each."""
    return values.view(np.uint8).reshape(*values.shape, values.itemsize)


def _pick(channels: NDArray[np.uint8], order: tuple[int, ...]) -> NDArray[np.uint8]:
    """The last axis rearranged. One strided copy a byte is five times as fast as one fancy index."""
    picked = np.empty((*channels.shape[:-1], len(order)), dtype=np.uint8)
    for to, taken in enumerate(order):
        picked[..., to] = channels[..., taken]
    return picked
