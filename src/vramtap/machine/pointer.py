"""Pointer: an absolute pointer on top of a mouse that reports motions only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from vramtap.machine.devices.ps2 import Ps2Device

LEFT: Final = 0x01
MIDDLE: Final = 0x02
RIGHT: Final = 0x04
WHEEL_UP: Final = 0x08
WHEEL_DOWN: Final = 0x10
"""Bits of a viewer's button mask (RFC 6143, 7.5.5)."""

FAR: Final = 16384
"""Motion in counts that crosses any screen: DISPI modes are at most 16,000 pixels wide."""


class Pointer:
    """Knows where the guest's pointer is, and moves it to absolute positions.

    Facts: a mouse sends motions, and the guest does not report where its pointer is. But a guest that moves
    its pointer by one pixel a count, and keeps it inside the screen, can be led: after a motion longer than
    any screen the pointer is in the top-left corner, wherever it was, even at a place outside the current
    mode.

    Consequence: from this corner on every position is known, as long as no motion is lost and the screen
    keeps its size.

    Decision: the pointer is first sent to the corner, and again when the screen's size changes or the guest
    has reset its mouse. The mouse never merges waiting motions across that one. A guest that accelerates its
    pointer is not followed exactly.

    Args:
        ps2: Controller of the mouse.
    """

    def __init__(self, ps2: Ps2Device) -> None:
        self._ps2 = ps2
        self._at = self._size = 0, 0
        self._epoch: int | None = None
        self._buttons = 0

    def move_to(self, x: int, y: int, buttons: int, width: int, height: int) -> None:
        """Move the pointer and set its buttons.

        Args:
            x: Column in pixels; clipped to the screen.
            y: Row in pixels; clipped to the screen.
            buttons: RFB's mask. The wheel turns by one notch when its bit becomes set.
            width: Width of the screen, pixels.
            height: Height of the screen, pixels.
        """
        x, y = max(0, min(x, width - 1)), max(0, min(y, height - 1))
        pressed, self._buttons = buttons & ~self._buttons, buttons
        notches = bool(pressed & WHEEL_DOWN) - bool(pressed & WHEEL_UP)
        epoch = self._ps2.mouse_epoch
        if epoch != self._epoch or self._size != (width, height):
            self._epoch, self._size, self._at = epoch, (width, height), (0, 0)
            self._ps2.home(-FAR, -FAR)
        left, top = self._at
        self._at = x, y
        self._ps2.move(x - left, y - top, _mouse_buttons(buttons), notches)

    def release(self) -> None:
        """Release every button."""
        self._buttons = 0
        self._ps2.move(0, 0, 0)


def _mouse_buttons(buttons: int) -> int:
    """Convert RFB's mask to the mouse's: bit 0 left, 1 right, 2 middle."""
    return buttons & LEFT | (0x02 if buttons & RIGHT else 0) | (0x04 if buttons & MIDDLE else 0)
