"""Raw, encoding 0: pixels without compression (RFC 6143, 7.7.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vramtap.rfb.convert import converter, flat
from vramtap.rfb.encodings.base import Encoded, EncodeOptions
from vramtap.rfb.wire import Encoding, rect_header

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vramtap.display.region import Rect


class RawEncoder:
    """Encoder for Raw. If the client's format is XR24, it copies no pixels."""

    def encode(self, rect: Rect, pixels: NDArray[np.uint32], options: EncodeOptions) -> Encoded:
        """See `Encoder`."""
        convert = converter(options.format)
        data = flat(convert.pixels(convert.working(pixels)))
        return Encoded(1, [rect_header(*rect, Encoding.RAW), data])
