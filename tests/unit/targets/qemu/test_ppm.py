"""PPM pictures from QEMU: valid, truncated and forged."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vramtap.errors import VramtapError
from vramtap.targets.qemu.ppm import parse_ppm


def encoded(rgb: np.ndarray) -> bytes:
    height, width, _ = rgb.shape
    return b"P6\n%d %d\n255\n" % (width, height) + rgb.tobytes()


@given(arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
def test_a_ppm_is_decoded(rgb: np.ndarray) -> None:
    pixels = parse_ppm(encoded(rgb), "test")
    assert pixels.shape == rgb.shape[:2]
    for row, column in np.ndindex(pixels.shape):
        red, green, blue = (int(value) for value in rgb[row, column])
        assert pixels[row, column] == red << 16 | green << 8 | blue


@given(st.binary(max_size=200))
def test_any_bytes_are_a_picture_or_a_vramtap_error(data: bytes) -> None:
    try:
        message = f"picture of {parse_ppm(data, 'dump').size * 3} bytes"
    except VramtapError as error:
        message = str(error)
    assert message.startswith(("read dump: ", "picture of "))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"P5\n1 1\n255\n...",
        b"P6\n1 1\n65535\n......",
        b"P6\n99999 99999\n255\n",
        b"P6\n0 1\n255\n",
        b"P6\n2 1\n255\n12345",
        b"P6\n123456 1\n255\n",
    ],
)
def test_an_invalid_ppm_is_refused(data: bytes) -> None:
    with pytest.raises(VramtapError, match=r"^read forged: "):
        parse_ppm(data, "forged")
