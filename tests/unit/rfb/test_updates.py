"""UpdateEncoder: one update at a time, in messages whose rectangles can be counted."""

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
from vramtap.rfb.updates import PixelRect, Update, UpdateEncoder
from vramtap.rfb.wire import Encoding

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLACK = PixelRect(Rect(0, 0, 4, 4), np.zeros((4, 4), np.uint32))


def test_an_update_of_nothing_is_a_message_of_no_rectangles() -> None:
    assert b"".join(UpdateEncoder().encode(Update(EncodeOptions(), Encoding.ZRLE))) == bytes(4)


def test_more_rectangles_than_a_message_counts_go_into_two() -> None:
    moves = tuple(Move(Rect(0, 0, 1, 1), 1, 1) for _ in range(70_000))
    data = b"".join(UpdateEncoder().encode(Update(EncodeOptions(), Encoding.RAW, moves=moves)))
    assert struct.unpack(">BxH", data[:4]) == (0, 65535)
    assert struct.unpack(">BxH", data[4 + 16 * 65535 :][:4]) == (0, 70_000 - 65535)
    assert len(data) == 8 + 16 * 70_000


def test_what_goes_ahead_goes_ahead_once() -> None:
    encoder = UpdateEncoder()
    assert b"".join(
        encoder.encode(Update(EncodeOptions(), Encoding.RAW, before=b"ahead"))
    ) == b"ahead" + bytes(4)


@pytest.mark.parametrize(
    ("update", "light"),
    [
        (Update(EncodeOptions(), Encoding.TIGHT), True),
        (Update(EncodeOptions(), Encoding.RAW, pieces=(BLACK,)), True),
        (Update(EncodeOptions(WireFormat(big_endian=True)), Encoding.RAW, pieces=(BLACK,)), False),
        (Update(EncodeOptions(), Encoding.ZRLE, pieces=(BLACK,)), False),
    ],
)
def test_light_is_what_looks_at_no_pixel(update: Update, light: bool) -> None:
    assert update.is_light is light
    assert update.area == 16 * len(update.pieces)


def test_streams_are_kept_when_the_encoding_changes_and_comes_back() -> None:
    encoder = UpdateEncoder()
    zrle = Update(EncodeOptions(), Encoding.ZRLE, pieces=(BLACK,))
    # A zlib stream begins with its header (RFC 1950: 0x78), once.
    first = b"".join(encoder.encode(zrle))
    assert first[20] == 0x78
    encoder.encode(Update(EncodeOptions(), Encoding.RAW, pieces=(BLACK,)))
    assert b"".join(encoder.encode(zrle))[20] != 0x78


def test_two_updates_at_once_are_a_defect_that_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    entered, leave = threading.Event(), threading.Event()

    class Slow:
        def encode(self, rect: Rect, pixels: NDArray[np.uint32], options: EncodeOptions) -> Encoded:
            entered.set()
            assert leave.wait(10)
            return Encoded(1, [b"done"])

    monkeypatch.setitem(encodings.ENCODERS, Encoding.ZRLE, Slow)
    encoder = UpdateEncoder()
    update = Update(EncodeOptions(), Encoding.ZRLE, pieces=(BLACK,))
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
