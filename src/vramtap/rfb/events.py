"""Events that `ServerConnection.receive` returns. They have the names of RFC 6143's messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from vramtap.keyboard.events import KeyEvent, PointerEvent

if TYPE_CHECKING:
    from vramtap.display.region import Rect
    from vramtap.rfb.formats import WireFormat


@dataclass(frozen=True, slots=True)
class AuthenticationFailed:
    """The client sent a wrong password. `data_to_send` holds the answer; then the connection ends."""


@dataclass(frozen=True, slots=True)
class ClientInit:
    """The client completed the handshake.

    Args:
        shared: Whether other clients may stay connected.
    """

    shared: bool


@dataclass(frozen=True, slots=True)
class SetPixelFormat:
    """The client set its pixel format. It holds from the next update.

    Args:
        format: The new format.
    """

    format: WireFormat


@dataclass(frozen=True, slots=True)
class SetEncodings:
    """The client listed its encodings. They hold from the next update.

    Args:
        numbers: Encodings and pseudo-encodings, the client's favourite first.
    """

    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FramebufferUpdateRequest:
    """The client requested an update.

    Args:
        incremental: True: the client has the area and wants its changes. False: it wants the whole area.
        area: An area of the client's framebuffer. None if the request lies outside; then only
            pseudo-rectangles are sent.
    """

    incremental: bool
    area: Rect | None


@dataclass(frozen=True, slots=True)
class ClientCutText:
    """The client's clipboard changed.

    Args:
        text: Latin-1 text (RFC 6143, 7.5.6). None if it was too long or in an extended form.
    """

    text: bytes | None


@dataclass(frozen=True, slots=True)
class SetDesktopSize:
    """The client requested another screen size. The server refuses it, because the guest sets the size.

    Args:
        width: Requested width, pixels.
        height: Requested height, pixels.
    """

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
"""Any event that `receive` returns."""
