"""PPM, the picture format of QEMU's screendump, bounded before it is believed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import numpy as np

from vramtap.display.mode import MAX_DIMENSION, MAX_PIXELS
from vramtap.errors import VramtapError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_HEADER: Final = re.compile(rb"P6\s+(\d{1,5})\s+(\d{1,5})\s+255\s")


def parse_ppm(data: bytes, what: str) -> NDArray[np.uint32]:
    """Decode a binary PPM of 8 bits a channel (netpbm's ppm(5), `P6`).

    Args:
        data: The file; bytes past the picture are ignored.
        what: What messages call it.

    Returns:
        Shape `(height, width)`, `0x00RRGGBB`.

    Raises:
        VramtapError: no such header, out of bounds, or cut short.
    """
    match = _HEADER.match(data)
    if match is None:
        raise VramtapError("read", what, f"no PPM header in {data[:16]!r}")
    width, height = int(match[1]), int(match[2])
    if not (0 < width <= MAX_DIMENSION and 0 < height <= MAX_DIMENSION and width * height <= MAX_PIXELS):
        raise VramtapError("read", what, f"picture of {width}x{height} is out of bounds")
    if len(data) - match.end() < width * height * 3:
        raise VramtapError("read", what, f"{len(data)} bytes are too few for {width}x{height}")
    rgb = np.frombuffer(data, np.uint8, width * height * 3, match.end()).reshape(height, width, 3)
    pixels = np.zeros((height, width), dtype="<u4")
    pixels.view(np.uint8).reshape(height, width, 4)[..., 2::-1] = rgb
    return pixels
