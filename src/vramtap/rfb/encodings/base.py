"""Encoder: what every way to send the pixels of a rectangle fulfils."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from vramtap.rfb.formats import NATIVE, WireFormat

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vramtap.display.region import Rect
    from vramtap.rfb.wire import Buffer


@dataclass(frozen=True, slots=True)
class EncodeOptions:
    """What the client has asked of the encoder, as it stood when the update was begun.

    Args:
        format: Of its pixels.
        quality: JPEG quality level 0..9; None if it did not allow JPEG.
        compression: Compression level 0..9; None if it named none.
    """

    format: WireFormat = NATIVE
    quality: int | None = None
    compression: int | None = None


class Encoded(NamedTuple):
    """Rectangles ready to send: how many, and their bytes with each one's header."""

    rects: int
    buffers: list[Buffer]


class Encoder(Protocol):
    """One encoding on one connection: it keeps the compressor streams that run through it.

    It knows no server and no connection. Calls are made one after another, each on any thread.
    """

    def encode(self, rect: Rect, pixels: NDArray[np.uint32], options: EncodeOptions) -> Encoded:
        """Make a rectangle ready to send, as one RFB rectangle or as several that cover it.

        Args:
            rect: Where it goes.
            pixels: Shape `(rect.height, rect.width)`, `0x00RRGGBB`, contiguous; not changed, and
                possibly sent as it is, so the caller must not change it either.
            options: The client's.
        """
        ...
