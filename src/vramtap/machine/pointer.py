"""An absolute pointer on top of a mouse that only knows motions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from vramtap.machine.devices.ps2 import Ps2Device

LEFT: Final = 0x01
MIDDLE: Final = 0x02
RIGHT: Final = 0x04
WHEEL_UP: Final = 0x08
WHEEL_DOWN: Final = 0x10
"""Bits of a viewer's buttons, as RFB numbers them (RFC 6143, 7.5.5)."""

FAR: Final = 16384
"""Counts that reach across any screen: DISPI's are at most 16,000 pixels wide."""


class Pointer:
    """Follows where a guest has its pointer, and moves it.

    Facts: a mouse sends motions. Where the guest's pointer is nobody tells; but a guest that moves it by
    a pixel a count, and holds it inside its screen, can be led: a motion longer than any screen ends in the
    top-left corner wherever it began, be it where only the mode before had a place. Consequence: from a
    known corner every position is known, as long as no motion is lost and the screen stays as large.
    Decision: the pointer is led home at first, when the screen's size changes, and when the guest has reset
    its mouse; what waits in the mouse is never merged across that motion. A guest that accelerates its
    pointer is not followed exactly.

    Args:
        ps2: Whose mouse it is.
    """

    def __init__(self, ps2: Ps2Device) -> None:
        self._ps2 = ps2
        self._at = self._size = 0, 0
        self._run: int | None = None
        self._buttons = 0

    def go(self, x: int, y: int, buttons: int, width: int, height: int) -> None:
        """Bring the pointer to a place and set its buttons.

        Args:
            x: Column in pixels, inside the screen.
            y: Row in pixels, inside the screen.
            buttons: RFB's mask; the wheel turns when its bit comes.
            width: Of the screen, in pixels.
            height: Of the screen, in pixels.
        """
        x, y = max(0, min(x, width - 1)), max(0, min(y, height - 1))
        came, self._buttons = buttons & ~self._buttons, buttons
        notches = bool(came & WHEEL_DOWN) - bool(came & WHEEL_UP)
        run = self._ps2.pointing
        if run != self._run or self._size != (width, height):
            self._run, self._size, self._at = run, (width, height), (0, 0)
            self._ps2.home(-FAR, -FAR)
        left, top = self._at
        self._at = x, y
        self._ps2.move(x - left, y - top, _held(buttons), notches)

    def release(self) -> None:
        """Let go of every button."""
        self._buttons = 0
        self._ps2.move(0, 0, 0)


def _held(buttons: int) -> int:
    """RFB's mask as the mouse has it: left, right, middle."""
    return buttons & LEFT | (0x02 if buttons & RIGHT else 0) | (0x04 if buttons & MIDDLE else 0)
