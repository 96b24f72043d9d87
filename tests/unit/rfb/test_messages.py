"""Tests of the client's messages, byte for byte (RFC 6143, 7.5, and rfbproto), and of their bounds."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.rfb_input import buffered_bytes
from vramtap.display.region import Rect
from vramtap.errors import ProtocolError
from vramtap.keyboard.events import KeyEvent, PointerEvent
from vramtap.rfb.connection import ServerConnection
from vramtap.rfb.events import (
    ClientCutText,
    ClientInit,
    Event,
    FramebufferUpdateRequest,
    SetDesktopSize,
    SetEncodings,
    SetPixelFormat,
)
from vramtap.rfb.formats import NATIVE
from vramtap.rfb.messages import MAX_CUT_TEXT_BYTES, MAX_ENCODINGS, MAX_SKIPPED_BYTES

HANDSHAKE = b"RFB 003.003\n\1"
MIB = 1 << 20

MESSAGES: list[tuple[bytes, Event]] = [
    (b"\0\0\0\0" + NATIVE.pack(), SetPixelFormat(NATIVE)),
    (bytes.fromhex("02 00 0003 00000010 00000000 ffffff21"), SetEncodings((16, 0, -223))),
    (bytes.fromhex("02 00 0000"), SetEncodings(())),
    (bytes.fromhex("03 01 0001 0002 0010 0020"), FramebufferUpdateRequest(True, Rect(1, 2, 16, 32))),
    (bytes.fromhex("03 00 0000 0000 0280 01e0"), FramebufferUpdateRequest(False, Rect(0, 0, 640, 480))),
    # Clipped to the framebuffer, or outside it.
    (bytes.fromhex("03 00 0270 0000 ffff ffff"), FramebufferUpdateRequest(False, Rect(624, 0, 16, 480))),
    (bytes.fromhex("03 01 0280 0000 0001 0001"), FramebufferUpdateRequest(True, None)),
    (bytes.fromhex("03 01 0000 0000 0000 0000"), FramebufferUpdateRequest(True, None)),
    (bytes.fromhex("04 01 0000 0000ff0d"), KeyEvent(keysym=0xFF0D, scancode=0, down=True)),
    (bytes.fromhex("04 00 ffff ffffffff"), KeyEvent(keysym=0xFFFFFFFF, scancode=0, down=False)),
    (bytes.fromhex("05 05 0009 ffff"), PointerEvent(9, 0xFFFF, 5)),
    (bytes.fromhex("06 000000 00000003") + b"abc", ClientCutText(b"abc")),
    (bytes.fromhex("06 000000 00000000"), ClientCutText(b"")),
    # The extended clipboard, with a length of minus eight.
    (bytes.fromhex("06 000000 fffffff8") + bytes(8), ClientCutText(None)),
    (bytes.fromhex("fb 00 0400 0300 00 00"), SetDesktopSize(1024, 768)),
    (bytes.fromhex("fb 00 0400 0300 02 00") + bytes(32), SetDesktopSize(1024, 768)),
    (bytes.fromhex("ff 00 0001 00000061 0000001e"), KeyEvent(keysym=0x61, scancode=0x1E, down=True)),
    # Right control: folded as in rfbproto, and as some clients send it.
    (bytes.fromhex("ff 00 0000 0000ffe4 0000009d"), KeyEvent(keysym=0xFFE4, scancode=0x9D, down=False)),
    (bytes.fromhex("ff 00 0000 0000ffe4 0000e01d"), KeyEvent(keysym=0xFFE4, scancode=0x9D, down=False)),
    (bytes.fromhex("ff 00 0001 0000ff13 00e11d45"), KeyEvent(keysym=0xFF13, scancode=0, down=True)),
]


def connected() -> ServerConnection:
    rfb = ServerConnection("name", 640, 480)
    assert rfb.receive(HANDSHAKE) == [ClientInit(shared=True)]
    return rfb


@pytest.mark.parametrize(("data", "event"), MESSAGES)
def test_each_message_gives_its_event(data: bytes, event: Event) -> None:
    rfb = connected()
    assert rfb.receive(data[:-1]) == []
    assert rfb.receive(data[-1:]) == [event]
    assert rfb.receive(bytes.fromhex("05 00 0000 0000")) == [PointerEvent(0, 0, 0)]


@given(st.lists(st.sampled_from(MESSAGES), max_size=12), st.lists(st.integers(0, 400), max_size=30))
def test_messages_in_any_pieces_give_the_same_events(
    messages: list[tuple[bytes, Event]], cuts: list[int]
) -> None:
    data = HANDSHAKE + b"".join(message for message, _ in messages)
    rfb = ServerConnection("name", 640, 480)
    events: list[Event] = []
    places = sorted({min(cut, len(data)) for cut in cuts})
    for first, last in zip([0, *places], [*places, len(data)], strict=True):
        events += rfb.receive(data[first:last])
    assert events == [ClientInit(shared=True), *(event for _, event in messages)]
    assert buffered_bytes(rfb) == 0


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\1", "type 1: the message is unknown"),
        (b"\x96", "type 150: the message is unknown"),
        (b"\xfa\0\1\2", "type 250: the message is unknown"),
        (b"\xff\1", "type 255 subtype 1: it was not offered"),
        (struct.pack(">BxH", 2, MAX_ENCODINGS + 1), "1025 encodings, more than 1024"),
        (struct.pack(">B3xi", 6, MAX_SKIPPED_BYTES + 1), "67108865 bytes, more than"),
        (struct.pack(">B3xi", 6, -MAX_SKIPPED_BYTES - 1), "67108865 bytes, more than"),
        (struct.pack(">B3xi", 6, -(1 << 31)), "2147483648 bytes, more than"),
        (b"\0\0\0\0" + bytes(16), "0 bits per pixel"),
    ],
)
def test_a_value_out_of_bounds_raises_before_its_data_arrives(data: bytes, reason: str) -> None:
    rfb = connected()
    with pytest.raises(ProtocolError, match=reason):
        rfb.receive(data)
    assert rfb.failed
    assert buffered_bytes(rfb) == 0
    assert rfb.receive(bytes(1000)) == []


@pytest.mark.parametrize("length", [MAX_CUT_TEXT_BYTES + 1, MIB, -MIB])
def test_a_too_long_clipboard_is_skipped_and_not_kept(length: int) -> None:
    rfb = connected()
    assert rfb.receive(struct.pack(">B3xi", 6, length)) == []
    left = abs(length)
    while left > 10_000:
        assert rfb.receive(bytes(10_000)) == []
        left -= 10_000
        assert buffered_bytes(rfb) < 64 * 1024
    assert rfb.receive(bytes(left) + b"\5\0\0\0\0\0") == [ClientCutText(None), PointerEvent(0, 0, 0)]


def test_a_clipboard_of_the_maximum_length_is_kept() -> None:
    text = b"x" * MAX_CUT_TEXT_BYTES
    assert connected().receive(struct.pack(">B3xi", 6, len(text)) + text) == [ClientCutText(text)]
