"""Constants of the RFB protocol: message types, encodings, security types, and the layout of headers."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview
"""Bytes to send. The items of a memoryview are bytes."""

MAX_RECTS_IN_MESSAGE: Final = 0xFFFF
"""Maximum number of rectangles in a FramebufferUpdate: it counts them in 16 bits (RFC 6143, 7.6.1)."""


class SecurityType(IntEnum):
    """Security types that vramtap offers (RFC 6143, 7.1.2)."""

    NONE = 1
    VNC_AUTHENTICATION = 2


class ClientMessage(IntEnum):
    """Message types that vramtap reads (RFC 6143, 7.5; rfbproto for 251 and 255)."""

    SET_PIXEL_FORMAT = 0
    SET_ENCODINGS = 2
    FRAMEBUFFER_UPDATE_REQUEST = 3
    KEY_EVENT = 4
    POINTER_EVENT = 5
    CLIENT_CUT_TEXT = 6
    SET_DESKTOP_SIZE = 251
    QEMU = 255


class ServerMessage(IntEnum):
    """Message types that vramtap sends (RFC 6143, 7.6)."""

    FRAMEBUFFER_UPDATE = 0
    SET_COLOUR_MAP_ENTRIES = 1


class Encoding(IntEnum):
    """Encodings and pseudo-encodings that vramtap supports (RFC 6143, 7.7 and 7.8; rfbproto for the rest)."""

    RAW = 0
    COPY_RECT = 1
    TIGHT = 7
    ZRLE = 16
    DESKTOP_SIZE = -223
    QEMU_EXTENDED_KEY = -258
    EXTENDED_DESKTOP_SIZE = -308


JPEG_QUALITY: Final = range(-32, -22)
"""Pseudo-encodings that allow JPEG, with quality level 0 (worst) to 9 (rfbproto)."""
COMPRESSION_LEVEL: Final = range(-256, -246)
"""Pseudo-encodings that set the compression level, 0 (fastest) to 9 (rfbproto)."""

UPDATE_HEADER: Final = struct.Struct(">BxH")
"""Message type, number of rectangles."""
RECT_HEADER: Final = struct.Struct(">HHHHi")
"""Column, row, width, height, encoding."""
COPY_SOURCE: Final = struct.Struct(">HH")
"""Source column, source row of a CopyRect."""
COLOUR_MAP_HEADER: Final = struct.Struct(">BxHH")
"""Message type, first colour, number of colours."""
SERVER_INIT: Final = struct.Struct(">HH16sI")
"""Width, height, pixel format, length of the name."""
SCREEN_LAYOUT: Final = struct.Struct(">B3xIHHHHI")
"""Number of screens, then one screen: id, column, row, width, height, flags (ExtendedDesktopSize)."""
U32: Final = struct.Struct(">I")


def rect_header(x: int, y: int, width: int, height: int, encoding: int) -> bytes:
    """Return the header of a rectangle (RFC 6143, 7.6.1)."""
    return RECT_HEADER.pack(x, y, width, height, encoding)
