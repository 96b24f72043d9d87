"""What a session needs of the byte stream it speaks through and of the tap it looks through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractContextManager

    import numpy as np
    from numpy.typing import NDArray

    from vramtap.display.backlog import DamageBacklog
    from vramtap.keyboard.events import Input
    from vramtap.rfb.wire import Buffer


class ByteStream(Protocol):
    """What a session speaks through: TCP, or a WebSocket."""

    peer: str
    """How log lines call the client."""

    async def receive(self) -> bytes:
        """Bytes as they come, at most some tens of KB at once; empty when the client has gone.

        Raises:
            OSError: the connection broke.
        """
        ...

    async def send(self, buffers: Iterable[Buffer]) -> None:
        """Send these in order; returns when the peer has taken all but a bounded rest.

        Raises:
            OSError: the connection broke.
        """
        ...


class ScreenLike(Protocol):
    """The screen, as sessions read it."""

    @property
    def width(self) -> int:
        """Pixels."""
        ...

    @property
    def height(self) -> int:
        """Pixels."""
        ...

    @property
    def pixels(self) -> NDArray[np.uint32]:
        """Shape `(height, width)`, `0x00RRGGBB`."""
        ...


class TargetLike(Protocol):
    """The target, as sessions use it."""

    @property
    def input(self) -> Input | None:
        """Its keyboard and pointer, if it takes any."""
        ...


class ViewerLike(Protocol):
    """What one viewer has not been sent."""

    @property
    def backlog(self) -> DamageBacklog:
        """What it has not been sent."""
        ...

    async def changed(self) -> None:
        """Wait until something is pending, on a screen that is not stale.

        Raises:
            TargetGone: the target has ended.
        """
        ...


class TapLike(Protocol):
    """A tap, as sessions use it."""

    @property
    def screen(self) -> ScreenLike:
        """Its pixels."""
        ...

    @property
    def target(self) -> TargetLike:
        """What is tapped."""
        ...

    def viewer(self, name: str) -> AbstractContextManager[ViewerLike]:
        """A new viewer, everything pending for it."""
        ...

    async def fresh(self) -> None:
        """Make sure that the screen is not stale: while nobody waits for changes, nobody looks.

        Raises:
            TargetGone: the target has ended.
        """
        ...
