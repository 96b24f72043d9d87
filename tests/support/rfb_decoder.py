"""Decoder: RFB rectangles to pixels, written from the protocol documents alone.

It shares no code with vramtap. It raises `Broken` for everything that a document forbids.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray

RAW, COPY_RECT, TIGHT, ZRLE = 0, 1, 7, 16
DESKTOP_SIZE, LAST_RECT, QEMU_KEY, EXTENDED_DESKTOP_SIZE = -223, -224, -258, -308
JPEG_QUALITY_0, COMPRESSION_0 = -32, -256
"""Numbers of level 0. Add the level."""

Values = NDArray[np.unsignedinteger[Any]]
Read = Callable[[int], bytes]


class Broken(Exception):
    """The server broke the protocol, or the connection ended within a message."""


@dataclass(frozen=True)
class PixelFormat:
    """A pixel format (RFC 6143, 7.4). The default is `0x00RRGGBB`, little-endian."""

    bits_per_pixel: int = 32
    depth: int = 24
    big_endian: bool = False
    true_colour: bool = True
    maxima: tuple[int, int, int] = (255, 255, 255)
    shifts: tuple[int, int, int] = (16, 8, 0)

    def pack(self) -> bytes:
        return struct.pack(
            ">4B3H3B3x",
            self.bits_per_pixel,
            self.depth,
            self.big_endian,
            self.true_colour,
            *self.maxima,
            *self.shifts,
        )

    @classmethod
    def unpack(cls, data: bytes) -> PixelFormat:
        bits, depth, big, true, *rest = struct.unpack(">4B3H3B3x", data)
        return cls(bits, depth, bool(big), bool(true), (*rest[:3],), (*rest[3:],))

    @property
    def size(self) -> int:
        return self.bits_per_pixel // 8

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(f"{'>' if self.big_endian else '<'}u{self.size}")

    def pixels(self, data: bytes) -> Values:
        """Decode PIXELs."""
        values: Values = np.frombuffer(data, self.dtype).astype(f"u{self.size}")
        return values

    @property
    def cpixel_size(self) -> int:
        return 3 if self._cpixel_shift is not None else self.size

    @property
    def _cpixel_shift(self) -> int | None:
        if not (self.true_colour and self.bits_per_pixel == 32 and self.depth <= 24):
            return None
        used = 0
        for maximum, shift in zip(self.maxima, self.shifts, strict=True):
            used |= ((1 << maximum.bit_length()) - 1) << shift
        return 0 if used < 1 << 24 else 8 if not used & 0xFF else None

    def cpixels(self, data: bytes) -> Values:
        """Decode CPIXELs."""
        shift = self._cpixel_shift
        if shift is None:
            return self.pixels(data)
        low, middle, high = np.frombuffer(data, np.uint8).reshape(-1, 3).astype(np.uint32).T
        if self.big_endian:
            low, high = high, low
        value: Values = (low | middle << np.uint32(8) | high << np.uint32(16)) << np.uint32(shift)
        return value

    @property
    def tpixel_size(self) -> int:
        return 3 if self._compact_tpixel else self.size

    @property
    def _compact_tpixel(self) -> bool:
        return (
            self.true_colour
            and self.bits_per_pixel == 32
            and self.depth == 24
            and self.maxima == (255, 255, 255)
        )

    def tpixels(self, data: bytes) -> Values:
        """Decode TPIXELs."""
        if not self._compact_tpixel:
            return self.pixels(data)
        return self.from_rgb(np.frombuffer(data, np.uint8).reshape(-1, 3))

    def from_rgb(self, rgb: NDArray[np.uint8]) -> Values:
        """Return pixel values of colours. The last axis is red, green, blue."""
        value = np.zeros(rgb.shape[:-1], np.uint64)
        for channel in range(3):
            level = np.rint(rgb[..., channel].astype(np.float64) * self.maxima[channel] / 255)
            value |= level.astype(np.uint64) << np.uint64(self.shifts[channel])
        pixels: Values = value.astype(f"u{self.size}")
        return pixels

    def to_xr24(self, values: Values) -> NDArray[np.uint32]:
        """Return pixel values as `0x00RRGGBB`."""
        pixels = np.zeros(values.shape, np.uint32)
        for maximum, shift, place in zip(self.maxima, self.shifts, (16, 8, 0), strict=True):
            level = (values.astype(np.uint64) >> np.uint64(shift)) & np.uint64(maximum)
            if maximum != 255:
                level = (level * np.uint64(255) + np.uint64(maximum // 2)) // np.uint64(max(maximum, 1))
            pixels |= level.astype(np.uint32) << np.uint32(place)
        return pixels


NATIVE = PixelFormat()


class Decoder:
    """The decoder of one connection: its framebuffer and zlib streams.

    Args:
        read: Returns exactly this many bytes, or raises.
        width: Width of the framebuffer, pixels.
        height: Height of the framebuffer, pixels.
        pixel_format: Format of the pixel data.
    """

    def __init__(self, read: Read, width: int, height: int, pixel_format: PixelFormat = NATIVE) -> None:
        self.read = read
        self.format = pixel_format
        self.values: Values
        """Pixel values in the client's format, shape `(height, width)`."""
        self.resize(width, height)
        self.colour_map = np.zeros(256, np.uint32)
        self._zrle: Any = zlib.decompressobj()
        self._tight: list[Any] = [zlib.decompressobj() for _ in range(4)]
        self.methods: list[str] = []
        """How each Tight rectangle and ZRLE tile was encoded."""

    def resize(self, width: int, height: int) -> None:
        self.values = np.zeros((height, width), f"u{self.format.size}")

    @property
    def pixels(self) -> NDArray[np.uint32]:
        """Pixels `0x00RRGGBB` of shape `(height, width)`."""
        if not self.format.true_colour:
            return self.colour_map[self.values]
        return self.format.to_xr24(self.values)

    def rectangle(self, x: int, y: int, width: int, height: int, encoding: int) -> None:
        """Decode one rectangle into the framebuffer."""
        rows, columns = self.values.shape
        if x + width > columns or y + height > rows:
            raise Broken(f"rectangle {width}x{height} at {x},{y} exceeds the framebuffer {columns}x{rows}")
        if not (width and height):
            raise Broken(f"empty rectangle, encoding {encoding}")
        match encoding:
            case 0:
                pixels = self.format.pixels(self.read(width * height * self.format.size))
                into = pixels.reshape(height, width)
            case 1:
                from_x, from_y = struct.unpack(">HH", self.read(4))
                if from_x + width > columns or from_y + height > rows:
                    raise Broken(f"CopyRect reads {width}x{height} at {from_x},{from_y} outside")
                into = self.values[from_y : from_y + height, from_x : from_x + width].copy()
            case 7:
                into = self._tight_rectangle(width, height)
            case 16:
                into = self._zrle_rectangle(width, height)
            case _:
                raise Broken(f"encoding {encoding} was not requested")
        self.values[y : y + height, x : x + width] = into

    # ZRLE: RFC 6143, 7.7.5

    def _zrle_rectangle(self, width: int, height: int) -> Values:
        (length,) = struct.unpack(">I", self.read(4))
        data = io.BytesIO(self._zrle.decompress(self.read(length)))
        out = np.zeros((height, width), f"u{self.format.size}")
        for top in range(0, height, 64):
            for left in range(0, width, 64):
                tile = out[top : top + 64, left : left + 64]
                tile[...] = self._zrle_tile(data, *tile.shape)
        if data.read(1):
            raise Broken("ZRLE data continues after the last tile")
        return out

    def _zrle_tile(self, data: io.BytesIO, height: int, width: int) -> Values:
        def cpixels(count: int) -> Values:
            return self.format.cpixels(_exactly(data, count * self.format.cpixel_size))

        kind = _exactly(data, 1)[0]
        self.methods.append(f"zrle-{kind}")
        if kind == 0:
            return cpixels(width * height).reshape(height, width)
        if kind == 1:
            return np.broadcast_to(cpixels(1), (height, width))
        if kind <= 16:
            palette = cpixels(kind)
            bits = 1 if kind == 2 else 2 if kind <= 4 else 4
            row_bytes = -(-width * bits // 8)
            packed = np.frombuffer(_exactly(data, row_bytes * height), np.uint8).reshape(height, row_bytes)
            places = np.arange(8 - bits, -1, -bits, dtype=np.uint8)
            indices = (packed[:, :, None] >> places & ((1 << bits) - 1)).reshape(height, -1)[:, :width]
            tile: Values = palette[indices]
            return tile
        if kind == 128 or kind >= 130:
            palette = cpixels(kind - 128)
            values, lengths, total = [], [], 0
            while total < width * height:
                length = 1
                if kind == 128:
                    values.append(cpixels(1)[0])
                    length += _run_length(data)
                else:
                    index = _exactly(data, 1)[0]
                    values.append(palette[index & 127])
                    length += _run_length(data) if index & 128 else 0
                lengths.append(length)
                total += length
            if total != width * height:
                raise Broken("a ZRLE run exceeds its tile")
            return np.repeat(np.array(values, f"u{self.format.size}"), lengths).reshape(height, width)
        raise Broken(f"ZRLE subencoding {kind}")

    # Tight: rfbproto, Tight encoding

    def _tight_rectangle(self, width: int, height: int) -> Values:
        if width > 2048:
            raise Broken(f"a Tight rectangle {width} pixels wide")
        control = self.read(1)[0]
        for stream in range(4):
            if control >> stream & 1:
                self._tight[stream] = zlib.decompressobj()
        method = control >> 4
        tpixels, size = self.format.tpixels, self.format.tpixel_size
        if method == 8:
            self.methods.append("fill")
            return np.broadcast_to(tpixels(self.read(size)), (height, width))
        if method == 9:
            self.methods.append("jpeg")
            return self._tight_jpeg(width, height)
        if method > 7:
            raise Broken(f"Tight control byte {control:#x}")
        kind = self.read(1)[0] if method & 4 else 0
        if kind == 0:
            self.methods.append("copy")
            return tpixels(self._tight_data(method & 3, width * height * size)).reshape(height, width)
        if kind != 1:
            raise Broken(f"Tight filter {kind}")
        colours = self.read(1)[0] + 1
        if colours < 2:
            raise Broken("a Tight palette of one colour")
        palette = tpixels(self.read(colours * size))
        self.methods.append("mono" if colours == 2 else "indexed")
        if colours == 2:
            row_bytes = -(-width // 8)
            packed = np.frombuffer(self._tight_data(method & 3, row_bytes * height), np.uint8)
            two: Values = palette[np.unpackbits(packed.reshape(height, row_bytes), axis=1)[:, :width]]
            return two
        indices = np.frombuffer(self._tight_data(method & 3, width * height), np.uint8)
        pixels: Values = palette[indices].reshape(height, width)
        return pixels

    def _tight_data(self, stream: int, size: int) -> bytes:
        if size < 12:
            return self.read(size)
        data: bytes = self._tight[stream].decompress(self.read(self._tight_length()))
        if len(data) != size:
            raise Broken(f"{len(data)} bytes of Tight data, not {size}")
        return data

    def _tight_length(self) -> int:
        length = 0
        for place in (0, 7, 14):
            byte = self.read(1)[0]
            length |= (byte if place == 14 else byte & 0x7F) << place
            if not byte & 0x80:
                break
        return length

    def _tight_jpeg(self, width: int, height: int) -> Values:
        if self.format.bits_per_pixel not in (16, 32) or not self.format.true_colour:
            raise Broken(f"JPEG for {self.format}")
        rgb = simplejpeg.decode_jpeg(self.read(self._tight_length()), colorspace="RGB")
        if rgb.shape != (height, width, 3):
            raise Broken(f"a JPEG of shape {rgb.shape} for {width}x{height}")
        return self.format.from_rgb(rgb)


def _exactly(data: io.BytesIO, size: int) -> bytes:
    taken = data.read(size)
    if len(taken) != size:
        raise Broken(f"ZRLE data ends {size - len(taken)} bytes too early")
    return taken


def _run_length(data: io.BytesIO) -> int:
    """Return the length of a run minus one."""
    length = 0
    while True:
        byte = _exactly(data, 1)[0]
        length += byte
        if byte != 255:
            return length
