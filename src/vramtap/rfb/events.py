"""What a client did, as `ServerConnection.receive` tells it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from vramtap.keyboard.events import KeyEvent, PointerEvent

if TYPE_CHECKING:
    from vramtap.display.region import Rect
    from vramtap.rfb.formats import WireFormat


@dataclass(frozen=True, slots=True)
class AuthenticationFailed:
    """The password was wrong. The answer waits in `data_to_send`; the connection is over after it."""


@dataclass(frozen=True, slots=True)
class ClientInit:
    """The handshake is done.

    Args:
        shared: The client would leave other clients connected.
    """

    shared: bool


@dataclass(frozen=True, slots=True)
class SetPixelFormat:
    """From the next update on, pixels go out in this format."""

    format: WireFormat


@dataclass(frozen=True, slots=True)
class SetEncodings:
    """From the next update on, these encodings may be used, the first one best."""

    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FramebufferUpdateRequest:
    """The client waits for an update.

    Args:
        incremental: It has this area and wants what changes; False: it wants all of it.
        area: Inside the client's framebuffer; None: nothing of it, only pseudo-rectangles.
    """

    incremental: bool
    area: Rect | None


@dataclass(frozen=True, slots=True)
class ClientCutText:
    """The client's clipboard changed.

    Args:
        text: Latin-1 (RFC 6143, 7.5.6); None if it was too long to keep or in an extended form.
    """

    text: bytes | None


@dataclass(frozen=True, slots=True)
class SetDesktopSize:
    """The client asked for another size. It is refused: the size is the guest's."""

    width: int
    height: int


Event: TypeAlias = (
    AuthenticationFailed
    | ClientInit
    | SetPixelFormat
    | SetEncodings
    | FramebufferUpdateRequest
    | KeyEvent
    | PointerEvent
    | ClientCutText
    | SetDesktopSize
)
"""Anything `receive` returns."""
