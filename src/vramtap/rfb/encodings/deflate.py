"""Deflate streams that last for a whole connection. Each piece is flushed for the client to decode."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from vramtap.rfb.wire import Buffer

try:
    from isal import isal_zlib
except ImportError:  # not built for this machine; zlib makes the same format, several times slower
    isal_zlib = None  # type: ignore[assignment]  # checked below

_FAST_LEVELS: Final = 7
"""Client levels 0..6 use ISA-L's level 1. Measured on a screen of text: it takes a sixth of the time of
zlib's level 1, and the result is 10 % longer. The results of ISA-L's levels 2 and 3 are not shorter."""
_SMALL_LEVEL: Final = 6
"""zlib's level for client levels 7..9. zlib's level 9 takes eight times as long and saves only 3 %."""


class _Compressor(Protocol):
    def compress(self, data: Buffer, /) -> bytes: ...

    def flush(self, mode: int, /) -> bytes: ...


class DeflateStream:
    """One zlib stream (RFC 1950).

    Args:
        compression: The client's compression level 0..9, or None. It holds for the whole stream.
    """

    def __init__(self, compression: int | None = None) -> None:
        self.compression: Final = compression
        self._stream: _Compressor = _new_stream(compression)

    def compress(self, data: Buffer) -> bytes:
        """Return the next piece of the stream. A client can decompress all of `data` from it at once."""
        return self._stream.compress(data) + self._stream.flush(zlib.Z_SYNC_FLUSH)


def _new_stream(compression: int | None) -> _Compressor:
    if compression is not None and compression >= _FAST_LEVELS:
        return zlib.compressobj(_SMALL_LEVEL)
    if isal_zlib is not None:
        return isal_zlib.compressobj(1)
    return zlib.compressobj(1)
