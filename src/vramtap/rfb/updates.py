"""FramebufferUpdate: a snapshot of what to send. UpdateEncoder: makes its bytes, on any thread."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vramtap.rfb.convert import converter
from vramtap.rfb.encodings import ENCODERS
from vramtap.rfb.encodings.base import Encoded, EncodeOptions, Encoder
from vramtap.rfb.encodings.copyrect import copy_rect
from vramtap.rfb.wire import MAX_RECTS_IN_MESSAGE, UPDATE_HEADER, Buffer, Encoding, ServerMessage

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from vramtap.display.damage import Move
    from vramtap.display.region import Rect


@dataclass(frozen=True, slots=True)
class PixelRect:
    """A rectangle of pixels to send.

    Args:
        rect: Its place in the client's framebuffer.
        pixels: Shape `(rect.height, rect.width)`, `0x00RRGGBB`, contiguous. They never change.
    """

    rect: Rect
    pixels: NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class FramebufferUpdate:
    """Snapshot of one FramebufferUpdate (RFC 6143, 7.6.1). Later messages of the client do not change it.

    Args:
        options: The client's options when the update began.
        encoding: Number of the encoding for pixels.
        preceding: Complete messages to send before the update.
        pseudo_rects: Complete pseudo-rectangles.
        moves: Copies of pixels that the client has, in this order.
        pixel_rects: Pixels to send.
    """

    options: EncodeOptions
    encoding: int
    preceding: bytes = b""
    pseudo_rects: tuple[bytes, ...] = ()
    moves: tuple[Move, ...] = ()
    pixel_rects: tuple[PixelRect, ...] = field(default=(), repr=False)

    @property
    def is_cheap(self) -> bool:
        """Whether it takes only microseconds to encode, because no pixel is converted."""
        return not self.pixel_rects or (
            self.encoding == Encoding.RAW and converter(self.options.format).is_copy
        )

    @property
    def area(self) -> int:
        """Number of pixels to encode."""
        return sum(part.rect.area for part in self.pixel_rects)


class UpdateEncoder:
    """The encoders of one connection, with their compression streams.

    It encodes one update at a time. Each call can be on a different thread.
    """

    def __init__(self) -> None:
        self._encoders: dict[int, Encoder] = {}
        self._busy = threading.Lock()

    def encode(self, update: FramebufferUpdate) -> list[Buffer]:
        """Return the bytes of an update. The caller sends all of them, in the order of the calls.

        Raises:
            RuntimeError: another thread encodes an update of this connection. Their streams would mix.
        """
        if not self._busy.acquire(blocking=False):
            raise RuntimeError("two updates of one connection are encoded at once")
        try:
            return self._encode(update)
        finally:
            self._busy.release()

    def _encode(self, update: FramebufferUpdate) -> list[Buffer]:
        encoder = self._encoders.get(update.encoding)
        if encoder is None:
            encoder = self._encoders[update.encoding] = ENCODERS[update.encoding]()
        parts = [Encoded(1, [rect]) for rect in (*update.pseudo_rects, *map(copy_rect, update.moves))]
        parts += (encoder.encode(part.rect, part.pixels, update.options) for part in update.pixel_rects)
        return [update.preceding, *_messages(parts)]


def _messages(parts: Sequence[Encoded]) -> list[Buffer]:
    """Return the parts as messages: one, or several if there are more rectangles than one can count."""
    messages: list[Buffer] = []
    inside: list[Buffer] = []
    count = 0
    for part in parts:
        if count + part.rects > MAX_RECTS_IN_MESSAGE:
            messages += [UPDATE_HEADER.pack(ServerMessage.FRAMEBUFFER_UPDATE, count), *inside]
            inside, count = [], 0
        inside += part.buffers
        count += part.rects
    return [*messages, UPDATE_HEADER.pack(ServerMessage.FRAMEBUFFER_UPDATE, count), *inside]
