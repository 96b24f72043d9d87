"""Tests of DeflateStream, with ISA-L and with zlib."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramtap.rfb.encodings import deflate
from vramtap.rfb.encodings.deflate import DeflateStream

LEVELS = [None, *range(10)]
PIECES = st.lists(
    st.one_of(
        st.binary(max_size=300),
        st.builds(lambda byte, n: byte * n, st.binary(max_size=3), st.integers(0, 40_000)),
    ),
    min_size=1,
    max_size=8,
)


@pytest.mark.parametrize("level", LEVELS)
@given(pieces=PIECES)
def test_each_piece_can_be_decompressed_at_once(level: int | None, pieces: list[bytes]) -> None:
    stream, reader = DeflateStream(level), zlib.decompressobj()
    for piece in pieces:
        assert reader.decompress(stream.compress(piece)) == piece
    assert not reader.unused_data


def test_a_megabyte_is_one_piece() -> None:
    data = bytes(range(256)) * 4096 + b"tail"
    stream, reader = DeflateStream(), zlib.decompressobj()
    for _ in range(3):
        packed = stream.compress(memoryview(data))
        assert len(packed) < len(data) // 50
        assert reader.decompress(packed) == data


@pytest.mark.parametrize("level", LEVELS)
def test_without_isal_a_client_decompresses_the_same(
    level: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deflate, "isal_zlib", None)
    stream, reader = DeflateStream(level), zlib.decompressobj()
    for piece in (b"one" * 100, b"", b"two"):
        assert reader.decompress(stream.compress(piece)) == piece
