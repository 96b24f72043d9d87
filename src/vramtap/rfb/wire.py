"""The numbers of the RFB protocol: message types, encodings, security types, and the packing of headers."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview
"""A piece of what goes out, one byte an item."""

MAX_RECTS_IN_MESSAGE: Final = 0xFFFF
"""A FramebufferUpdate counts its rectangles in 16 bits (RFC 6143, 7.6.1)."""


class Security(IntEnum):
    """Security types offered here (RFC 6143, 7.1.2)."""

    NONE = 1
    VNC = 2


class FromClient(IntEnum):
    """Types of the messages understood here (RFC 6143, 7.5; rfbproto for 251 and 255)."""

    SET_PIXEL_FORMAT = 0
    SET_ENCODINGS = 2
    UPDATE_REQUEST = 3
    KEY = 4
    POINTER = 5
    CUT_TEXT = 6
    SET_DESKTOP_SIZE = 251
    QEMU = 255


class FromServer(IntEnum):
    """Types of the messages sent here (RFC 6143, 7.6)."""

    UPDATE = 0
    SET_COLOUR_MAP = 1


class Encoding(IntEnum):
    """Encodings and pseudo-encodings known here (RFC 6143, 7.7 and 7.8; rfbproto for the rest)."""

    RAW = 0
    COPY_RECT = 1
    TIGHT = 7
    ZRLE = 16
    DESKTOP_SIZE = -223
    QEMU_EXTENDED_KEY = -258
    EXTENDED_DESKTOP_SIZE = -308


JPEG_QUALITY: Final = range(-32, -22)
"""Pseudo-encodings that allow JPEG, quality level 0 (worst) to 9 (rfbproto)."""
COMPRESSION_LEVEL: Final = range(-256, -246)
"""Pseudo-encodings that ask for a compression level, 0 (fastest) to 9 (rfbproto)."""

UPDATE_HEADER: Final = struct.Struct(">BxH")
"""Message type, number of rectangles."""
RECT_HEADER: Final = struct.Struct(">HHHHi")
"""Column, row, width, height, encoding."""
COPY_SOURCE: Final = struct.Struct(">HH")
"""Column and row a CopyRect reads from."""
COLOUR_MAP_HEADER: Final = struct.Struct(">BxHH")
"""Message type, first colour, number of colours."""
SERVER_INIT: Final = struct.Struct(">HH16sI")
"""Width, height, pixel format, length of the name."""
SCREEN_LAYOUT: Final = struct.Struct(">B3xIHHHHI")
"""Number of screens, then one screen: id, column, row, width, height, flags (ExtendedDesktopSize)."""
U32: Final = struct.Struct(">I")


def rect_header(x: int, y: int, width: int, height: int, encoding: int) -> bytes:
    """What precedes a rectangle's data (RFC 6143, 7.6.1)."""
    return RECT_HEADER.pack(x, y, width, height, encoding)
