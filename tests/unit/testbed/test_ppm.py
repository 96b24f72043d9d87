"""Tests of the PPM reader."""

from __future__ import annotations

import numpy as np
import pytest

from support.testbed import ppm
from support.testbed.errors import TestbedError


def test_reads_pixels() -> None:
    pixels = ppm.parse(b"P6\n2 1\n255\n" + bytes([1, 2, 3, 255, 0, 128]))
    assert pixels.dtype == np.uint32
    assert pixels.tolist() == [[0x010203, 0xFF0080]]


def test_pixel_bytes_may_equal_white_space() -> None:
    assert ppm.parse(b"P6\n# made by hand\n1 1\n255\n\n\n\n").tolist() == [[0x0A0A0A]]


@pytest.mark.parametrize(
    "data", [b"", b"P5\n1 1\n255\n\0", b"P6\n1 1\n255\n\0\0", b"P6\n1 1\n65535\n" + bytes(6)]
)
def test_rejects_other_formats_and_short_data(data: bytes) -> None:
    with pytest.raises(TestbedError, match="PPM"):
        ppm.parse(data)
