"""Access to the input that a `ServerConnection` keeps, for tests that bound its memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vramtap.rfb.connection import ServerConnection


def buffered_bytes(connection: ServerConnection) -> int:
    """Return the size of the incomplete message that the connection keeps."""
    return len(connection._input)
