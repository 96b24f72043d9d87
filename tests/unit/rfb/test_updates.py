"""Tests of FramebufferUpdate and UpdateEncoder."""

from __future__ import annotations

import struct
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest

from vramtap.display.damage import Move
from vramtap.display.region import Rect
from vramtap.rfb import encodings
from vramtap.rfb.encodings.base import Encoded, EncodeOptions
from vramtap.rfb.formats import WireFormat
from vramtap.rfb.updates import FramebufferUpdate, PixelRect, UpdateEncoder
from vramtap.rfb.wire import Encoding

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLACK = PixelRect(Rect(0, 0, 4, 4), np.zeros((4, 4), np.uint32))


def test_an_empty_update_is_a_message_without_rectangles() -> None:
    assert b"".join(UpdateEncoder().encode(FramebufferUpdate(EncodeOptions(), Encoding.ZRLE))) == bytes(4)


def test_too_many_rectangles_for_one_message_go_into_two() -> None:
    moves = tuple(Move(Rect(0, 0, 1, 1), 1, 1) for _ in range(70_000))
    data = b"".join(UpdateEncoder().encode(FramebufferUpdate(EncodeOptions(), Encoding.RAW, moves=moves)))
    assert struct.unpack(">BxH", data[:4]) == (0, 65535)
    assert struct.unpack(">BxH", data[4 + 16 * 65535 :][:4]) == (0, 70_000 - 65535)
    assert len(data) == 8 + 16 * 70_000


def test_preceding_messages_are_sent_once() -> None:
    encoder = UpdateEncoder()
    assert b"".join(
        encoder.encode(FramebufferUpdate(EncodeOptions(), Encoding.RAW, preceding=b"ahead"))
    ) == b"ahead" + bytes(4)


@pytest.mark.parametrize(
    ("update", "light"),
    [
        (FramebufferUpdate(EncodeOptions(), Encoding.TIGHT), True),
        (FramebufferUpdate(EncodeOptions(), Encoding.RAW, pixel_rects=(BLACK,)), True),
        (
            FramebufferUpdate(EncodeOptions(WireFormat(big_endian=True)), Encoding.RAW, pixel_rects=(BLACK,)),
            False,
        ),
        (FramebufferUpdate(EncodeOptions(), Encoding.ZRLE, pixel_rects=(BLACK,)), False),
    ],
)
def test_an_update_is_cheap_if_no_pixel_is_converted(update: FramebufferUpdate, light: bool) -> None:
    assert update.is_cheap is light
    assert update.area == 16 * len(update.pixel_rects)


def test_streams_survive_a_change_to_another_encoding_and_back() -> None:
    encoder = UpdateEncoder()
    zrle = FramebufferUpdate(EncodeOptions(), Encoding.ZRLE, pixel_rects=(BLACK,))
    # A zlib stream has one header, at its start (RFC 1950: 0x78).
    first = b"".join(encoder.encode(zrle))
    assert first[20] == 0x78
    encoder.encode(FramebufferUpdate(EncodeOptions(), Encoding.RAW, pixel_rects=(BLACK,)))
    assert b"".join(encoder.encode(zrle))[20] != 0x78


def test_two_updates_at_once_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    entered, leave = threading.Event(), threading.Event()

    class Slow:
        def encode(self, rect: Rect, pixels: NDArray[np.uint32], options: EncodeOptions) -> Encoded:
            entered.set()
            assert leave.wait(10)
            return Encoded(1, [b"done"])

    monkeypatch.setitem(encodings.ENCODERS, Encoding.ZRLE, Slow)
    encoder = UpdateEncoder()
    update = FramebufferUpdate(EncodeOptions(), Encoding.ZRLE, pixel_rects=(BLACK,))
    results: list[bytes] = []
    thread = threading.Thread(target=lambda: results.append(b"".join(encoder.encode(update))))
    thread.start()
    try:
        assert entered.wait(10)
        with pytest.raises(RuntimeError, match="at once"):
            encoder.encode(update)
    finally:
        leave.set()
        thread.join()
    assert results == [b"\0\0\0\1done"]
    assert b"".join(encoder.encode(update)) == b"\0\0\0\1done"
