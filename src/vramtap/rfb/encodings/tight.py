"""Tight, encoding 7: fill, JPEG, palette or pixels, as it suits each part (rfbproto, Tight encoding)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from vramtap.rfb.convert import Converter, WorkingPixels, converter, flat
from vramtap.rfb.encodings.base import Encoded, EncodeOptions
from vramtap.rfb.encodings.blocks import BlockKind, blocks
from vramtap.rfb.encodings.deflate import DeflateStream
from vramtap.rfb.encodings.jpeg import encode_jpeg
from vramtap.rfb.encodings.tiles import index_of
from vramtap.rfb.wire import Buffer, Encoding, rect_header

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vramtap.display.region import Rect

_FILL: Final = 0x80
_JPEG: Final = 0x90
_EXPLICIT_FILTER: Final = 0x40
_PALETTE_FILTER: Final = 1
_PIXEL_STREAM, _TWO_COLOUR_STREAM, _INDEX_STREAM = 0, 1, 2
"""Stream for each kind of data, because each kind has its own statistics. Tight has four streams."""
_MIN_COMPRESSED_BYTES: Final = 12
"""Shorter data is sent without compression and without a length."""
_MIN_JPEG_AREA: Final = 1024
"""Smallest number of pixels for JPEG. For fewer, its tables (600 bytes) cost more than it saves."""
MAX_LENGTH: Final = 0x3FFFFF
"""Maximum length in Tight's compact form, which has up to three bytes."""


class TightEncoder:
    """Encoder for Tight, with its streams. If the client changes its compression level, a stream is reset."""

    def __init__(self) -> None:
        self._streams: dict[int, DeflateStream] = {}

    def encode(self, rect: Rect, pixels: NDArray[np.uint32], options: EncodeOptions) -> Encoded:
        """See `Encoder`."""
        convert = converter(options.format)
        work = convert.working(pixels)
        quality = options.quality if options.format.allows_jpeg else None
        buffers: list[Buffer] = []
        parts = blocks(work, pixels, jpeg=quality is not None)
        for part in parts:
            inside = part.rect(rect.width, rect.height)
            buffers.append(rect_header(*inside.shift(rect.x, rect.y), Encoding.TIGHT))
            cut = work[inside.slices]
            if part.kind is BlockKind.SOLID:
                buffers.append(bytes([_FILL]) + convert.tpixels(cut[:1, :1].copy()).tobytes())
            elif part.kind is BlockKind.PHOTO and quality is not None and inside.area >= _MIN_JPEG_AREA:
                image = encode_jpeg(pixels[inside.slices], quality)
                buffers += [bytes([_JPEG]) + compact_length(len(image)), image]
            elif part.kind is BlockKind.COLOURS and _palette_pays(len(part.colours), inside.area, convert):
                buffers += self._indexed(cut, part.colours, convert, options)
            else:
                buffers += self._compressed(_PIXEL_STREAM, b"", flat(convert.tpixels(cut)), options)
        return Encoded(len(parts), buffers)

    def _indexed(
        self, cut: WorkingPixels, colours: frozenset[int], convert: Converter, options: EncodeOptions
    ) -> list[Buffer]:
        palette = np.array(sorted(colours), dtype=cut.dtype)
        head = bytes([_PALETTE_FILTER, len(palette) - 1]) + convert.tpixels(palette).tobytes()
        if len(palette) == 2:
            bits = np.packbits(cut == palette[1], axis=1)
            return self._compressed(_TWO_COLOUR_STREAM, head, flat(bits), options)
        return self._compressed(_INDEX_STREAM, head, flat(index_of(palette, cut)), options)

    def _compressed(
        self, number: int, filter_head: bytes, data: Buffer, options: EncodeOptions
    ) -> list[Buffer]:
        """Return a part in basic compression: control byte, filter, and data.

        Args:
            number: Number of the stream.
            filter_head: Filter id and its data. Empty for the copy filter.
            data: Data after the filter.
            options: The client's options.
        """
        control = number << 4 | (_EXPLICIT_FILTER if filter_head else 0)
        if len(data) < _MIN_COMPRESSED_BYTES:
            return [bytes([control]) + filter_head, data]
        stream = self._streams.get(number)
        if stream is None or stream.compression != options.compression:
            control |= 1 << number if stream is not None else 0
            stream = self._streams[number] = DeflateStream(options.compression)
        packed = stream.compress(data)
        return [bytes([control]) + filter_head + compact_length(len(packed)), packed]


def compact_length(length: int) -> bytes:
    """Return a length in one to three bytes, low bits first. A byte's top bit says that more follow."""
    assert length <= MAX_LENGTH, f"a length of {length} bytes is too long for Tight"
    if length < 1 << 7:
        return bytes([length])
    if length < 1 << 14:
        return bytes([length & 0x7F | 0x80, length >> 7])
    return bytes([length & 0x7F | 0x80, length >> 7 & 0x7F | 0x80, length >> 14])


def _palette_pays(colours: int, area: int, convert: Converter) -> bool:
    """Return whether palette and indices are shorter than the pixels. Indices have one bit or eight."""
    index_bytes = area / 8 if colours == 2 else area
    return colours * convert.tpixel_bytes + index_bytes < area * convert.tpixel_bytes
