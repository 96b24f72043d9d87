"""Reads binary PPM, which QEMU's `screendump` and X tools write."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from support.testbed.errors import TestbedError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def parse(data: bytes) -> NDArray[np.uint32]:
    """Return the pixels of a binary PPM with 8 bits per channel.

    Returns:
        Shape `(height, width)`, `0x00RRGGBB`.

    Raises:
        TestbedError: The data is no such PPM, or it is incomplete.
    """
    head = re.match(rb"P6\s+(?:#[^\n]*\n\s*)*(\d+)\s+(\d+)\s+255\s", data)
    if not head:
        raise TestbedError(f"not a PPM: begins with {data[:16]!r}")
    width, height = int(head[1]), int(head[2])
    if len(data) - head.end() != width * height * 3:
        raise TestbedError(f"PPM of {width}x{height} with {len(data) - head.end()} bytes of pixels")
    pixels = np.zeros((height, width), np.uint32)
    channels = np.frombuffer(data, np.uint8, offset=head.end()).reshape(height, width, 3)
    in_memory = pixels.view(np.uint8).reshape(height, width, 4)  # little-endian: blue, green, red, 0
    in_memory[..., :3] = channels[..., ::-1]
    return pixels
