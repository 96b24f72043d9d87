"""Tests of every encoding with an independent decoder: any picture, any format, several updates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.pictures import (
    KINDS,
    USUAL_FORMATS,
    Pixels,
    channels,
    expected_values,
    picture,
    pictures,
    pixel_formats,
)
from support.rfb_decoder import Decoder, PixelFormat
from vramtap.display.region import Rect
from vramtap.rfb.encodings import ENCODERS
from vramtap.rfb.encodings.base import EncodeOptions, Encoder
from vramtap.rfb.formats import WireFormat
from vramtap.rfb.wire import RECT_HEADER, Encoding

if TYPE_CHECKING:
    from collections.abc import Iterable

LOSSLESS = (Encoding.RAW, Encoding.ZRLE, Encoding.TIGHT)


class Pipe:
    """The bytes between an encoder and a decoder."""

    def __init__(self) -> None:
        self.data = bytearray()

    def read(self, size: int) -> bytes:
        taken = bytes(self.data[:size])
        assert len(taken) == size, "the decoder wants more than was encoded"
        del self.data[:size]
        return taken


class Link:
    """A connection between an encoder and a decoder."""

    def __init__(self, encoding: int) -> None:
        self.encoder: Encoder = ENCODERS[encoding]()
        self.pipe = Pipe()
        self.decoder = Decoder(self.pipe.read, 1, 1)

    def send(
        self,
        pixels: Pixels,
        wanted: PixelFormat,
        quality: int | None = None,
        compression: int | None = None,
        at: tuple[int, int] = (0, 0),
    ) -> None:
        """Encode a picture, and decode it into a framebuffer of its size and place."""
        height, width = pixels.shape
        self.decoder.format = wanted
        self.decoder.resize(at[0] + width, at[1] + height)
        options = EncodeOptions(WireFormat.parse(wanted.pack()), quality, compression)
        encoded = self.encoder.encode(Rect(*at, width, height), pixels, options)
        self.pipe.data += b"".join(encoded.buffers)
        for _ in range(encoded.rects):
            self.decoder.rectangle(*RECT_HEADER.unpack(self.pipe.read(12)))
        assert not self.pipe.data, "more was encoded than the decoder wants"

    def check(self, pixels: Pixels, wanted: PixelFormat, at: tuple[int, int] = (0, 0)) -> None:
        got = self.decoder.values[at[1] :, at[0] :]
        assert np.array_equal(got, expected_values(pixels, wanted))


@pytest.mark.parametrize("encoding", LOSSLESS)
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(pixels=pictures(), wanted=pixel_formats(), at=st.tuples(st.integers(0, 70), st.integers(0, 70)))
def test_any_picture_in_any_format_is_decoded_exactly(
    encoding: int, pixels: Pixels, wanted: PixelFormat, at: tuple[int, int]
) -> None:
    link = Link(encoding)
    link.send(pixels, wanted, at=at)
    link.check(pixels, wanted, at)


@pytest.mark.parametrize("encoding", LOSSLESS)
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=40)
@given(
    rounds=st.lists(
        st.tuples(pictures(90), pixel_formats(), st.sampled_from([None, 0, 5, 9])), min_size=2, max_size=6
    )
)
def test_streams_survive_changes_of_format_and_level(
    encoding: int, rounds: list[tuple[Pixels, PixelFormat, int | None]]
) -> None:
    link = Link(encoding)
    for pixels, wanted, level in rounds:
        link.send(pixels, wanted, compression=level)
        link.check(pixels, wanted)


@pytest.mark.parametrize("encoding", LOSSLESS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wanted", USUAL_FORMATS, ids=str)
def test_every_kind_of_picture_of_many_tiles_is_decoded_exactly(
    encoding: int, kind: str, wanted: PixelFormat
) -> None:
    pixels = picture(kind, 300, 200, seed=7)
    link = Link(encoding)
    link.send(pixels, wanted)
    link.check(pixels, wanted)


@pytest.mark.parametrize("encoding", LOSSLESS)
@pytest.mark.parametrize(
    ("width", "height"), [(2049, 3), (4500, 65), (1, 3000), (64, 64), (65, 64), (128, 129)]
)
def test_shapes_at_the_limits_are_decoded_exactly(encoding: int, width: int, height: int) -> None:
    for kind in ("solid", "noise", "patches"):
        pixels = picture(kind, width, height)
        link = Link(encoding)
        link.send(pixels, PixelFormat())
        link.check(pixels, PixelFormat())


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(pixels=pictures(200), wanted=pixel_formats(), quality=st.integers(0, 9))
def test_with_jpeg_allowed_the_picture_is_similar(pixels: Pixels, wanted: PixelFormat, quality: int) -> None:
    link = Link(Encoding.TIGHT)
    link.send(pixels, wanted, quality=quality)
    if "jpeg" not in link.decoder.methods:
        link.check(pixels, wanted)
        return
    assert wanted.true_colour
    assert wanted.bits_per_pixel != 8
    if wanted.maxima == (255, 255, 255):
        # Small noisy pictures are the worst case. Measured: at most 22 up to level 7, and 5 above.
        assert _error(link.decoder.pixels, pixels) < (8 if quality >= 8 else 32)


@pytest.mark.parametrize(("quality", "error"), [(0, 12.0), (6, 5.0), (9, 3.0)])
def test_a_photo_becomes_jpeg_of_the_requested_quality(quality: int, error: float) -> None:
    pixels = picture("photo", 256, 192)
    link = Link(Encoding.TIGHT)
    link.send(pixels, PixelFormat(), quality=quality)
    assert link.decoder.methods == ["jpeg"]
    assert _error(link.decoder.pixels, pixels) < error


def _error(got: Pixels, expected: Pixels) -> float:
    """Return the mean difference of the intensities, 0..255."""
    return float(np.abs(channels(got).astype(int) - channels(expected)).mean())


def _methods(pixels: Pixels, quality: int | None, wanted: PixelFormat = USUAL_FORMATS[0]) -> Iterable[str]:
    link = Link(Encoding.TIGHT)
    link.send(pixels, wanted, quality=quality)
    return link.decoder.methods


@pytest.mark.parametrize(
    ("kind", "without_jpeg", "with_jpeg"),
    [
        ("solid", {"fill"}, {"fill"}),
        ("two", {"mono"}, {"mono"}),
        ("few", {"indexed"}, {"indexed"}),
        ("many", {"indexed"}, {"indexed"}),
        ("photo", {"copy"}, {"jpeg"}),
        ("noise", {"copy"}, {"copy"}),
    ],
)
def test_tight_chooses_the_method_that_suits_the_picture(
    kind: str, without_jpeg: set[str], with_jpeg: set[str]
) -> None:
    pixels = picture(kind, 256, 256, seed=3)
    assert set(_methods(pixels, None)) == without_jpeg
    assert set(_methods(pixels, 8)) == with_jpeg
    for eight_bits in (USUAL_FORMATS[3], USUAL_FORMATS[4]):
        assert set(_methods(pixels, 8, eight_bits)) <= {"fill", "mono", "copy"}


def test_tight_joins_equal_tiles() -> None:
    pixels = picture("solid", 1920, 1080)
    assert _methods(pixels, None) == ["fill"]
    pixels[500:510, 900:910] = 0xABCDEF
    assert sorted(_methods(pixels, None)) == ["fill"] * 4 + ["mono"]
    assert len(list(_methods(picture("noise", 512, 512), None))) == 1
