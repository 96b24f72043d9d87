"""MachineInput: keyboard and mouse of the built-in VM, through its PS/2 controller."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vramtap.keyboard.us_layout import Stroke, UsKeyboard
from vramtap.machine.pointer import Pointer

if TYPE_CHECKING:
    from vramtap.keyboard.events import KeyEvent, PointerEvent
    from vramtap.machine.devices.ps2 import Ps2Device


class MachineInput:
    """Passes a client's key and pointer events to the guest; nothing here waits.

    Args:
        ps2: The VM's controller.
    """

    def __init__(self, ps2: Ps2Device) -> None:
        self._ps2 = ps2
        self._keyboard = UsKeyboard()
        self._pointer = Pointer(ps2)

    async def key(self, event: KeyEvent) -> None:
        """Press or release a key; see `Input`."""
        self._send(self._keyboard.strokes(event))

    async def pointer(self, event: PointerEvent, width: int, height: int) -> None:
        """Move the pointer and set its buttons; see `Input`."""
        self._pointer.move_to(event.x, event.y, event.buttons, width, height)

    async def release_all(self) -> None:
        """Release every key and button; see `Input`."""
        self._send(self._keyboard.release_all())
        self._pointer.release()

    def _send(self, strokes: list[Stroke]) -> None:
        for stroke in strokes:
            self._ps2.key(stroke.scancode, down=stroke.down)
