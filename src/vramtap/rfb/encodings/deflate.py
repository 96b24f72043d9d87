"""Deflate streams that run through a whole connection, each piece flushed so that it can be read at once."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from vramtap.rfb.wire import Buffer

try:
    from isal import isal_zlib
except ImportError:  # no build for this machine; zlib makes the same format, several times slower
    isal_zlib = None  # type: ignore[assignment]  # tested for below

_FAST_LEVELS: Final = 7
"""Client levels 0..6 go to ISA-L's level 1: a screen of text comes out 10 % longer than from zlib's
level 1 in a sixth of the time; ISA-L's levels 2 and 3 were no smaller (measured)."""
_SMALL_LEVEL: Final = 6
"""zlib's level for clients that ask for 7..9. Its level 9 takes eight times as long for 3 % less."""


class _Compressor(Protocol):
    def compress(self, data: Buffer, /) -> bytes: ...

    def flush(self, mode: int, /) -> bytes: ...


class DeflateStream:
    """One zlib stream (RFC 1950), begun at the first piece.

    Args:
        compression: The level the client asked for, 0..9, or None. It holds for the life of the stream.
    """

    def __init__(self, compression: int | None = None) -> None:
        self.compression: Final = compression
        self._stream: _Compressor = _begin(compression)

    def compress(self, data: Buffer) -> bytes:
        """A piece of the stream that a decompressor can turn into all of `data` without the next piece."""
        return self._stream.compress(data) + self._stream.flush(zlib.Z_SYNC_FLUSH)


def _begin(compression: int | None) -> _Compressor:
    if compression is not None and compression >= _FAST_LEVELS:
        return zlib.compressobj(_SMALL_LEVEL)
    if isal_zlib is not None:
        return isal_zlib.compressobj(1)
    return zlib.compressobj(1)
