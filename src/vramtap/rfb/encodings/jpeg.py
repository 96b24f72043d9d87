"""JPEG compression of XR24 pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import simplejpeg

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LEVELS: Final = (
    (10, "420"),
    (20, "420"),
    (30, "420"),
    (40, "420"),
    (50, "420"),
    (62, "420"),
    (75, "422"),
    (85, "422"),
    (92, "444"),
    (97, "444"),
)
"""libjpeg quality and chroma subsampling for the client's levels 0..9. rfbproto does not define the levels.
Here the quality rises in even steps up to level 4, for small pictures. Levels 8 and 9 have full colour
resolution."""


def encode_jpeg(pixels: NDArray[np.uint32], level: int) -> bytes:
    """Return a JFIF image.

    Args:
        pixels: Shape `(height, width)`, `0x00RRGGBB`. Each row is contiguous; there may be gaps between rows.
        level: The client's quality level, 0..9.
    """
    quality, subsampling = _LEVELS[level]
    height, width = pixels.shape
    channels = pixels.view(np.uint8).reshape(height, width, 4)
    encoded: bytes = simplejpeg.encode_jpeg(
        channels, quality=quality, colorspace="BGRX", colorsubsampling=subsampling
    )
    return encoded
