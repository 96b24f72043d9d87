"""Encoder: the protocol of all encodings for pixels."""

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
    """The client's options for an encoder, at the time when the update began.

    Args:
        format: Pixel format.
        quality: JPEG quality level 0..9. None if the client does not allow JPEG.
        compression: Compression level 0..9. None if the client set none.
    """

    format: WireFormat = NATIVE
    quality: int | None = None
    compression: int | None = None


class Encoded(NamedTuple):
    """Rectangles that are ready to send.

    Attributes:
        rects: Number of rectangles.
        buffers: Their bytes, each rectangle with its header.
    """

    rects: int
    buffers: list[Buffer]


class Encoder(Protocol):
    """One encoding on one connection, with its compression streams.

    Calls are made one after another. Each can be on a different thread.
    """

    def encode(self, rect: Rect, pixels: NDArray[np.uint32], options: EncodeOptions) -> Encoded:
        """Encode a rectangle, as one RFB rectangle or as several that cover it.

        Args:
            rect: Its place in the client's framebuffer.
            pixels: Shape `(rect.height, rect.width)`, `0x00RRGGBB`, contiguous. The array may be sent
                without a copy, so the caller must not change it.
            options: The client's options.
        """
        ...
