"""Update: one FramebufferUpdate to be made, as a snapshot, and what makes it on any thread."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vramtap.rfb.convert import converter
from vramtap.rfb.encodings import ENCODERS
from vramtap.rfb.encodings.base import Encoded, EncodeOptions, Encoder
from vramtap.rfb.encodings.copyrect import copy_rect
from vramtap.rfb.wire import MAX_RECTS_IN_MESSAGE, UPDATE_HEADER, Buffer, Encoding, FromServer

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from vramtap.display.damage import Move
    from vramtap.display.region import Rect


@dataclass(frozen=True, slots=True)
class PixelRect:
    """Pixels to be sent.

    Args:
        rect: Where they go.
        pixels: Shape `(rect.height, rect.width)`, `0x00RRGGBB`, contiguous, never changed again.
    """

    rect: Rect
    pixels: NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Update:
    """Everything one update is made from: nothing that a later message changes can reach into it.

    Args:
        options: The client's, when it was begun.
        encoding: The number of the one for its pixels.
        before: Whole messages to go out ahead of it.
        pseudo: Pseudo-rectangles, whole.
        moves: Copies of what the client has, in order.
        pieces: Pixels.
    """

    options: EncodeOptions
    encoding: int
    before: bytes = b""
    pseudo: tuple[bytes, ...] = ()
    moves: tuple[Move, ...] = ()
    pieces: tuple[PixelRect, ...] = field(default=(), repr=False)

    @property
    def is_light(self) -> bool:
        """Whether making it is a matter of microseconds: no pixel is looked at."""
        return not self.pieces or (self.encoding == Encoding.RAW and converter(self.options.format).is_copy)

    @property
    def area(self) -> int:
        """Pixels to be encoded."""
        return sum(piece.rect.area for piece in self.pieces)


class UpdateEncoder:
    """A connection's encoders with the streams that run through them. One update at a time, on any thread."""

    def __init__(self) -> None:
        self._encoders: dict[int, Encoder] = {}
        self._busy = threading.Lock()

    def encode(self, update: Update) -> list[Buffer]:
        """The bytes of an update, to be sent whole and in the order of these calls.

        Raises:
            RuntimeError: another update of this connection is being made: its streams would mix.
        """
        if not self._busy.acquire(blocking=False):
            raise RuntimeError("two updates of one connection encoded at once")
        try:
            return self._encode(update)
        finally:
            self._busy.release()

    def _encode(self, update: Update) -> list[Buffer]:
        encoder = self._encoders.get(update.encoding)
        if encoder is None:
            encoder = self._encoders[update.encoding] = ENCODERS[update.encoding]()
        parts = [Encoded(1, [rect]) for rect in (*update.pseudo, *map(copy_rect, update.moves))]
        parts += (encoder.encode(piece.rect, piece.pixels, update.options) for piece in update.pieces)
        return [update.before, *_messages(parts)]


def _messages(parts: Sequence[Encoded]) -> list[Buffer]:
    """Put headers before the rectangles: one, but for screens so large that 16 bits cannot count them."""
    messages: list[Buffer] = []
    inside: list[Buffer] = []
    count = 0
    for part in parts:
        if count + part.rects > MAX_RECTS_IN_MESSAGE:
            messages += [UPDATE_HEADER.pack(FromServer.UPDATE, count), *inside]
            inside, count = [], 0
        inside += part.buffers
        count += part.rects
    return [*messages, UPDATE_HEADER.pack(FromServer.UPDATE, count), *inside]
