"""The messages of a client once the handshake is done, each length bounded before it is waited for."""

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
from vramtap.rfb.wire import FromClient

MAX_ENCODINGS: Final = 1024
"""Entries of a SetEncodings. Clients list some tens; the protocol has some hundreds."""
MAX_CUT_TEXT_BYTES: Final = 256 * 1024
"""Clipboard text that is kept; longer text is read past."""
MAX_SKIPPED_BYTES: Final = 64 * 1024 * 1024
"""Clipboard text that is read past; with a greater length the client is taken to be broken."""
_SKIP_BYTES: Final = 64 * 1024
"""Read past in pieces of this size, so that nothing long is ever held."""
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
"""A parser without I/O: it yields how many bytes it needs next, is sent just these, and returns an event."""


def read_message() -> Reading:
    """Parse one message.

    Raises:
        ProtocolError: its type is unknown, or a length or value in it is out of bounds.
    """
    (kind,) = yield 1
    match kind:
        case FromClient.SET_PIXEL_FORMAT:
            return SetPixelFormat(WireFormat.parse((yield 19)[3:]))
        case FromClient.SET_ENCODINGS:
            return (yield from _encodings())
        case FromClient.UPDATE_REQUEST:
            incremental, *area = _UPDATE_REQUEST.unpack((yield _UPDATE_REQUEST.size))
            return FramebufferUpdateRequest(bool(incremental), Rect(*area))
        case FromClient.KEY:
            down, keysym = _KEY.unpack((yield _KEY.size))
            return KeyEvent(keysym=keysym, scancode=0, down=bool(down))
        case FromClient.POINTER:
            buttons, x, y = _POINTER.unpack((yield _POINTER.size))
            return PointerEvent(x, y, buttons)
        case FromClient.CUT_TEXT:
            return (yield from _cut_text())
        case FromClient.SET_DESKTOP_SIZE:
            width, height, screens = _SET_DESKTOP_SIZE.unpack((yield _SET_DESKTOP_SIZE.size))
            if screens:
                yield screens * _SCREEN_BYTES
            return SetDesktopSize(width, height)
        case FromClient.QEMU:
            return (yield from _qemu())
    raise ProtocolError("read message", f"type {kind}", "no such message, or one that was never offered")


def _encodings() -> Reading:
    (count,) = _SET_ENCODINGS.unpack((yield _SET_ENCODINGS.size))
    if count > MAX_ENCODINGS:
        raise ProtocolError("SetEncodings", "", f"{count} encodings, more than {MAX_ENCODINGS}")
    data = (yield 4 * count) if count else b""
    return SetEncodings(struct.unpack(f">{count}i", data))


def _cut_text() -> Reading:
    # A negative length is the extended clipboard's, which was never offered; some clients send it anyway.
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
        raise ProtocolError("read message", f"type 255 subtype {subtype}", "it was never offered")
    down, keysym, keycode = _QEMU_EXTENDED_KEY.unpack((yield _QEMU_EXTENDED_KEY.size))
    return KeyEvent(keysym=keysym, scancode=_scancode(keycode), down=bool(down))


def _scancode(keycode: int) -> int:
    """One byte for an XT set 1 code: clients send 0xE0nn either as that or folded, as rfbproto wants it."""
    if keycode >> 8 == 0xE0:
        return keycode & 0x7F | 0x80
    return keycode if keycode <= 0xFF else 0
