"""Decodes PPM, the picture format of QEMU's screendump, within bounds."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import numpy as np

from vramtap.display.mode import MAX_DIMENSION, MAX_PIXELS
from vramtap.errors import VramtapError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_HEADER: Final = re.compile(rb"P6\s+(\d{1,5})\s+(\d{1,5})\s+255\s")


def parse_ppm(data: bytes, name: str) -> NDArray[np.uint32]:
    """Decode a binary PPM of 8 bits a channel (netpbm's ppm(5), `P6`).

    Args:
        data: The file. Bytes after the picture are ignored.
        name: What messages call the picture.

    Returns:
        Shape `(height, width)`, `0x00RRGGBB`.

    Raises:
        VramtapError: the header is missing, the size is out of bounds, or the data is too short.
    """
    match = _HEADER.match(data)
    if match is None:
        raise VramtapError("read", name, f"no PPM header in {data[:16]!r}")
    width, height = int(match[1]), int(match[2])
    if not (0 < width <= MAX_DIMENSION and 0 < height <= MAX_DIMENSION and width * height <= MAX_PIXELS):
        raise VramtapError("read", name, f"a picture of {width}x{height} is out of bounds")
    if len(data) - match.end() < width * height * 3:
        raise VramtapError("read", name, f"{len(data)} bytes are too few for {width}x{height} pixels")
    rgb = np.frombuffer(data, np.uint8, width * height * 3, match.end()).reshape(height, width, 3)
    pixels = np.zeros((height, width), dtype="<u4")
    pixels.view(np.uint8).reshape(height, width, 4)[..., 2::-1] = rgb
    return pixels
