"""CopyRect, encoding 1: the client copies its own pixels (RFC 6143, 7.7.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vramtap.rfb.wire import COPY_SOURCE, Encoding, rect_header

if TYPE_CHECKING:
    from vramtap.display.damage import Move


def copy_rect(move: Move) -> bytes:
    """Return the CopyRect rectangle for a move, with its header."""
    header = rect_header(move.x, move.y, move.source.width, move.source.height, Encoding.COPY_RECT)
    return header + COPY_SOURCE.pack(move.source.x, move.source.y)
