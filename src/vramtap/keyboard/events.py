"""Key and pointer events, and `Input`: the keyboard and pointer of a target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyEvent:
    """A key that goes down or up.

    Args:
        keysym: X11 keysym, as RFB carries it (RFC 6143, 7.5.4).
        down: True when the key is pressed, False when it is released.
        scancode: XT set 1 scancode, with 0x80 set for a key with the prefix 0xE0, as the QEMU extended key
            event carries it. 0 if the client sent none.
    """

    keysym: int
    down: bool
    scancode: int = 0


@dataclass(frozen=True, slots=True)
class PointerEvent:
    """The position of the pointer and the buttons that are held.

    Args:
        x: Column in pixels, from the left. A viewer may send any value up to 65,535; a target gets a value
            that is on its screen.
        y: Row in pixels, from the top.
        buttons: RFB's button mask: bit 0 left, 1 middle, 2 right, 3 wheel up, 4 wheel down, 5 and 6 wheel
            left and right (RFC 6143, 7.5.5).
    """

    x: int
    y: int
    buttons: int


class Input(Protocol):
    """The keyboard and pointer of a target."""

    async def key(self, event: KeyEvent) -> None:
        """Press or release a key. A key that the target does not have is logged and dropped."""
        ...

    async def pointer(self, event: PointerEvent, width: int, height: int) -> None:
        """Move the pointer and set the buttons.

        Args:
            event: Position and buttons.
            width: Of the screen, pixels.
            height: Of the screen, pixels.
        """
        ...

    async def release_all(self) -> None:
        """Release every key and button that is held, because the client that held them has left."""
        ...
