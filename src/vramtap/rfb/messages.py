"""Parser of the client's messages after the handshake. It checks a length before it waits for the data."""

from __future__ import annotations

import struct
from collections.abc import Generator
from typing import Final, TypeAlias

from vramtap.display.region import Rect
from vramtap.errors import ProtocolError
from vramtap.keyboard.events import KeyEvent, PointerEvent
from vramtap.rfb.events import (
    ClientCutText,
    Event,
    FramebufferUpdateRequest,
    SetDesktopSize,
    SetEncodings,
    SetPixelFormat,
)
from vramtap.rfb.formats import WireFormat
from vramtap.rfb.wire import ClientMessage

MAX_ENCODINGS: Final = 1024
"""Maximum number of encodings in a SetEncodings. Clients list some tens. The protocol has some hundreds."""
MAX_CUT_TEXT_BYTES: Final = 256 * 1024
"""Maximum clipboard text that is kept. Longer text is skipped."""
MAX_SKIPPED_BYTES: Final = 64 * 1024 * 1024
"""Maximum clipboard text that is skipped. A greater length is a protocol error."""
_SKIP_BYTES: Final = 64 * 1024
"""Text is skipped in pieces of this size, so that memory stays small."""
_QEMU_KEY: Final = 0

_UPDATE_REQUEST: Final = struct.Struct(">BHHHH")
_KEY: Final = struct.Struct(">B2xI")
_POINTER: Final = struct.Struct(">BHH")
_CUT_TEXT: Final = struct.Struct(">3xi")
_SET_ENCODINGS: Final = struct.Struct(">xH")
_SET_DESKTOP_SIZE: Final = struct.Struct(">xHHBx")
_SCREEN_BYTES: Final = 16
_QEMU_EXTENDED_KEY: Final = struct.Struct(">HII")

Reading: TypeAlias = Generator[int, bytes, Event]
"""A parser without I/O. It yields the number of bytes that it needs next, is sent these, and returns an
event."""


def read_message() -> Reading:
    """Parse one message.

    Raises:
        ProtocolError: the message's type is unknown, or one of its values is out of bounds.
    """
    (kind,) = yield 1
    match kind:
        case ClientMessage.SET_PIXEL_FORMAT:
            return SetPixelFormat(WireFormat.parse((yield 19)[3:]))
        case ClientMessage.SET_ENCODINGS:
            return (yield from _encodings())
        case ClientMessage.FRAMEBUFFER_UPDATE_REQUEST:
            incremental, *area = _UPDATE_REQUEST.unpack((yield _UPDATE_REQUEST.size))
            return FramebufferUpdateRequest(bool(incremental), Rect(*area))
        case ClientMessage.KEY_EVENT:
            down, keysym = _KEY.unpack((yield _KEY.size))
            return KeyEvent(keysym=keysym, scancode=0, down=bool(down))
        case ClientMessage.POINTER_EVENT:
            buttons, x, y = _POINTER.unpack((yield _POINTER.size))
            return PointerEvent(x, y, buttons)
        case ClientMessage.CLIENT_CUT_TEXT:
            return (yield from _cut_text())
        case ClientMessage.SET_DESKTOP_SIZE:
            width, height, screens = _SET_DESKTOP_SIZE.unpack((yield _SET_DESKTOP_SIZE.size))
            if screens:
                yield screens * _SCREEN_BYTES
            return SetDesktopSize(width, height)
        case ClientMessage.QEMU:
            return (yield from _qemu())
    raise ProtocolError("read message", f"type {kind}", "the message is unknown or was not offered")


def _encodings() -> Reading:
    (count,) = _SET_ENCODINGS.unpack((yield _SET_ENCODINGS.size))
    if count > MAX_ENCODINGS:
        raise ProtocolError("SetEncodings", "", f"{count} encodings, more than {MAX_ENCODINGS}")
    data = (yield 4 * count) if count else b""
    return SetEncodings(struct.unpack(f">{count}i", data))


def _cut_text() -> Reading:
    # A negative length belongs to the extended clipboard. vramtap does not offer it, but some clients send
    # it.
    (length,) = _CUT_TEXT.unpack((yield _CUT_TEXT.size))
    if abs(length) > MAX_SKIPPED_BYTES:
        raise ProtocolError("ClientCutText", "", f"{abs(length)} bytes, more than {MAX_SKIPPED_BYTES}")
    if 0 <= length <= MAX_CUT_TEXT_BYTES:
        return ClientCutText((yield length) if length else b"")
    left = abs(length)
    while left:
        left -= len((yield min(left, _SKIP_BYTES)))
    return ClientCutText(None)


def _qemu() -> Reading:
    (subtype,) = yield 1
    if subtype != _QEMU_KEY:
        raise ProtocolError("read message", f"type 255 subtype {subtype}", "it was not offered")
    down, keysym, keycode = _QEMU_EXTENDED_KEY.unpack((yield _QEMU_EXTENDED_KEY.size))
    return KeyEvent(keysym=keysym, scancode=_scancode(keycode), down=bool(down))


def _scancode(keycode: int) -> int:
    """Return a client's XT keycode as one byte. 0 means no scancode.

    rfbproto folds 0xE0nn into one byte: nn with the high bit set. Some clients send 0xE0nn instead.
    """
    if keycode >> 8 == 0xE0:
        return keycode & 0x7F | 0x80
    return keycode if keycode <= 0xFF else 0
