"""Key and pointer events, and the input device of a target that takes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyEvent:
    """A key going down or up.

    Args:
        keysym: X11 keysym, as RFB carries it (RFC 6143, 7.5.4).
        scancode: XT set 1 scancode with 0x80 set for the 0xE0-prefixed ones, as the QEMU extended
            key event carries it; 0 where the client did not send one.
        down: Pressed, or released.
    """

    keysym: int
    down: bool
    scancode: int = 0


@dataclass(frozen=True, slots=True)
class PointerEvent:
    """Where the pointer is and which buttons are held.

    Args:
        x: Column in pixels, from the left. A viewer may send any value up to 65,535; a target gets one
            that is on its screen.
        y: Row in pixels, from the top.
        buttons: RFB's mask: bit 0 left, 1 middle, 2 right, 3 wheel up, 4 wheel down, 5 and 6 wheel
            left and right (RFC 6143, 7.5.5).
    """

    x: int
    y: int
    buttons: int


class Input(Protocol):
    """The keyboard and pointer of a target."""

    async def key(self, event: KeyEvent) -> None:
        """Press or release a key; a key the target does not know is dropped with a log line."""
        ...

    async def pointer(self, event: PointerEvent, width: int, height: int) -> None:
        """Move the pointer and set the buttons, on a screen of this size in pixels."""
        ...

    async def release_all(self) -> None:
        """Let go of every key and button still held: the client that held them is gone."""
        ...
