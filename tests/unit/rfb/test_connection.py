"""Tests of ServerConnection: the client's options, its updates, and their pseudo-rectangles."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from vramtap.display.damage import Move
from vramtap.display.region import Rect
from vramtap.rfb.connection import ClientEncodings, ServerConnection
from vramtap.rfb.encodings.base import EncodeOptions
from vramtap.rfb.formats import NATIVE, WireFormat
from vramtap.rfb.updates import FramebufferUpdate, PixelRect, UpdateEncoder
from vramtap.rfb.wire import Encoding

WHOLE = bytes.fromhex("0000 0000 ffff ffff")
REQUEST_ALL, REQUEST_CHANGES = b"\3\0" + WHOLE, b"\3\1" + WHOLE
COLOUR_MAP_FORMAT = bytes.fromhex("08 08 00 00") + bytes(12)


def connected(*encodings: int) -> ServerConnection:
    rfb = ServerConnection("name", 640, 480)
    rfb.receive(b"RFB 003.008\n\1\1")
    rfb.data_to_send()
    rfb.receive(set_encodings(*encodings))
    return rfb


def set_encodings(*numbers: int) -> bytes:
    return struct.pack(f">BxH{len(numbers)}i", 2, len(numbers), *numbers)


def sent(update: FramebufferUpdate | None) -> bytes:
    assert update is not None
    return b"".join(UpdateEncoder().encode(update))


def layout(x: int, y: int, width: int, height: int) -> bytes:
    """Return an update that holds only an ExtendedDesktopSize rectangle of one screen."""
    header = struct.pack(">BxHHHHHi", 0, 1, x, y, width, height, -308)
    return header + struct.pack(">B3xIHHHHI", 1, 0, 0, 0, width, height, 0)


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ((), ClientEncodings()),
        ((16, 7, 0), ClientEncodings(picture=16)),
        ((5, 2, 7, 16), ClientEncodings(picture=7)),
        ((1, 0, 7), ClientEncodings(picture=0, copy_rect=True)),
        ((5, 2), ClientEncodings(picture=0)),
        ((-32, -256), ClientEncodings(quality=0, compression=0)),
        ((7, -23, -247), ClientEncodings(picture=7, quality=9, compression=9)),
        ((-26, -30), ClientEncodings(quality=6)),
        ((-22, -33, -246, -257), ClientEncodings()),
        ((-223, -308, -258), ClientEncodings(desktop_size=True, extended_desktop_size=True, qemu_keys=True)),
    ],
)
def test_encodings_are_chosen_in_the_clients_order(
    numbers: tuple[int, ...], expected: ClientEncodings
) -> None:
    assert connected(*numbers).encodings == expected


def test_an_update_keeps_the_options_from_its_start() -> None:
    rfb = connected(Encoding.TIGHT, -26)
    update = rfb.begin_update((), ())
    rfb.receive(b"\0\0\0\0" + WireFormat(big_endian=True).pack() + set_encodings(16))
    assert (update.options, update.encoding) == (EncodeOptions(NATIVE, 6), Encoding.TIGHT)
    after = rfb.begin_update((), ())
    assert (after.options, after.encoding) == (EncodeOptions(WireFormat(big_endian=True)), Encoding.ZRLE)


def test_a_colour_map_is_sent_once_before_the_next_update() -> None:
    rfb = connected()
    begun = rfb.begin_update((), ())
    for _ in range(100):
        rfb.receive(b"\0\0\0\0" + COLOUR_MAP_FORMAT)
    assert sent(begun)[0] == 0
    after = sent(rfb.begin_update((), ()))
    assert after[:6] == bytes.fromhex("01 00 0000 0100")
    assert len(after) == 6 + 6 * 256 + 4
    assert sent(rfb.begin_update((), ())) == bytes(4)


def test_a_true_colour_format_cancels_the_colour_map() -> None:
    rfb = connected()
    rfb.receive(b"\0\0\0\0" + COLOUR_MAP_FORMAT + b"\0\0\0\0" + NATIVE.pack())
    assert sent(rfb.begin_update((), ())) == bytes(4)


def test_an_update_holds_moves_and_then_pixels() -> None:
    rfb = connected(0, 1)
    piece = PixelRect(Rect(7, 8, 2, 1), np.array([[0x112233, 0x445566]], np.uint32))
    update = rfb.begin_update([Move(Rect(1, 2, 30, 40), 5, 6)], [piece])
    assert sent(update) == bytes.fromhex(
        "00 00 00020005 0006 001e 0028 00000001 0001 00020007 0008 0002 0001 00000000 33221100 66554400"
    )


def test_qemu_keys_are_announced_once() -> None:
    rfb = connected(0, -258)
    assert rfb.key_rect_due
    assert sent(rfb.begin_update((), ())) == bytes.fromhex("00 00 0001 0000 0000 0000 0000 fffffefe")
    rfb.receive(set_encodings(0, -258))
    assert not rfb.key_rect_due
    assert sent(rfb.begin_update((), ())) == bytes(4)


def test_a_new_size_is_sent_alone_as_desktop_size() -> None:
    rfb = connected(0, -223)
    assert rfb.resize(640, 480)
    assert rfb.size_update() is None
    assert rfb.resize(800, 600)
    assert rfb.resize(1024, 768)
    assert (rfb.width, rfb.height) == (1024, 768)
    assert sent(rfb.size_update()) == bytes.fromhex("00 00 0001 0000 0000 0400 0300 ffffff21")
    assert rfb.size_update() is None


def test_extended_desktop_size_is_preferred() -> None:
    rfb = connected(0, -223, -308)
    assert rfb.resize(800, 600)
    assert not rfb.size_update_is_urgent
    assert sent(rfb.size_update()) == layout(0, 0, 800, 600)
    assert rfb.size_update() is None


def test_a_client_without_desktop_size_keeps_its_size() -> None:
    rfb = connected(0)
    assert not rfb.resize(800, 600)
    assert (rfb.width, rfb.height) == (640, 480)
    assert rfb.size_update() is None
    assert rfb.resize(640, 480)


def test_a_full_request_gets_the_layout_once_and_then_pixels() -> None:
    rfb = connected(0, -308)
    rfb.receive(REQUEST_ALL)
    assert sent(rfb.size_update()) == layout(0, 0, 640, 480)
    rfb.receive(REQUEST_ALL)
    assert rfb.size_update() is None
    rfb.begin_update((), ())
    rfb.receive(REQUEST_CHANGES)
    assert rfb.size_update() is None
    rfb.receive(REQUEST_ALL)
    assert sent(rfb.size_update()) == layout(0, 0, 640, 480)


def test_set_desktop_size_is_refused_once_without_a_request() -> None:
    rfb = connected(0, -308)
    rfb.receive(REQUEST_ALL + bytes.fromhex("fb 00 0400 0300 00 00") * 1000)
    assert rfb.size_update_is_urgent
    assert sent(rfb.size_update()) == layout(1, 1, 640, 480)
    assert rfb.size_update() is None
    assert not rfb.size_update_is_urgent


def test_a_refusal_has_the_latest_size() -> None:
    rfb = connected(0, -308)
    rfb.receive(bytes.fromhex("fb 00 0400 0300 00 00"))
    rfb.resize(800, 600)
    assert sent(rfb.size_update()) == layout(1, 1, 800, 600)


def test_a_client_without_extended_desktop_size_gets_no_layout() -> None:
    rfb = connected(0, -223)
    rfb.receive(REQUEST_ALL + bytes.fromhex("fb 00 0400 0300 00 00"))
    assert rfb.size_update() is None


def test_data_to_send_is_empty_after_the_handshake() -> None:
    rfb = connected(0, -308, -258)
    rfb.receive(b"\0\0\0\0" + COLOUR_MAP_FORMAT + REQUEST_ALL)
    assert rfb.data_to_send() == b""
