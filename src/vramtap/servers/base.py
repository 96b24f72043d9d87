"""ByteStream: the connection to a client, as sessions use it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vramtap.rfb.wire import Buffer


class ByteStream(Protocol):
    """Connection to one client: a TCP socket or a WebSocket."""

    peer: str
    """Name of the client in log lines."""

    async def receive(self) -> bytes:
        """Return the next bytes, at most some tens of KB; empty after the client closed the connection.

        Raises:
            OSError: The connection broke.
        """
        ...

    async def send(self, buffers: Iterable[Buffer]) -> None:
        """Send these buffers in order. Return when the peer has taken all but a bounded rest.

        Raises:
            OSError: The connection broke.
        """
        ...
