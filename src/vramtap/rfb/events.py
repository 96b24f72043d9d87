"""What a client did, as `ServerConnection.receive` tells it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from vramtap.display.region import Rect
from vramtap.rfb.formats import WireFormat


@dataclass(frozen=True, slots=True)
class AuthenticationFailed:
    """The password was wrong. The answer waits in `data_to_send`; the connection is over after it."""


@dataclass(frozen=True, slots=True)
class Initialised:
    """The handshake is done.

    Args:
        shared: The client would leave other clients connected.
    """

    shared: bool


@dataclass(frozen=True, slots=True)
class PixelFormatSet:
    """From the next update on, pixels go out in this format."""

    format: WireFormat


@dataclass(frozen=True, slots=True)
class EncodingsSet:
    """From the next update on, these encodings may be used, the first one best."""

    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class UpdateRequested:
    """The client waits for an update.

    Args:
        incremental: It has this area and wants what changes; False: it wants all of it.
        area: Inside the client's framebuffer; None: nothing of it, only pseudo-rectangles.
    """

    incremental: bool
    area: Rect | None


@dataclass(frozen=True, slots=True)
class KeyPressed:
    """A key went down or up.

    Args:
        keysym: X11 keysym (RFC 6143, 7.5.4).
        scancode: XT set 1, 0x80 set for those prefixed with 0xE0; 0 if the client sent none we can say.
        down: Pressed, or released.
    """

    keysym: int
    scancode: int
    down: bool


@dataclass(frozen=True, slots=True)
class PointerMoved:
    """The pointer moved, or a button went down or up.

    Args:
        x: Column in the client's framebuffer; up to 65535 whatever its size.
        y: Row.
        buttons: Mask of those held (RFC 6143, 7.5.5).
    """

    x: int
    y: int
    buttons: int


@dataclass(frozen=True, slots=True)
class CutTextSent:
    """The client's clipboard changed.

    Args:
        text: Latin-1 (RFC 6143, 7.5.6); None if it was too long to keep or in an extended form.
    """

    text: bytes | None


@dataclass(frozen=True, slots=True)
class DesktopSizeWanted:
    """The client asked for another size. It is refused: the size is the guest's."""

    width: int
    height: int


Event: TypeAlias = (
    AuthenticationFailed
    | Initialised
    | PixelFormatSet
    | EncodingsSet
    | UpdateRequested
    | KeyPressed
    | PointerMoved
    | CutTextSent
    | DesktopSizeWanted
)
"""Anything `receive` returns."""
