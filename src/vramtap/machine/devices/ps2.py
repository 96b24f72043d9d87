"""Ps2Device: the i8042 keyboard and mouse controller, with the host's side for input.

Sources: IBM PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary Device Controller";
QEMU: hw/input/pckbd.c.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import TYPE_CHECKING, Final

from vramtap.machine.devices.ps2_keyboard import Ps2Keyboard
from vramtap.machine.devices.ps2_mouse import Ps2Mouse
from vramtap.machine.layout import PORT_PS2_DATA, PORT_PS2_STATUS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vramtap.machine.ports import RaiseLine

STATUS_OUTPUT: Final = 0x01
"""A byte can be read at the data port."""
STATUS_SYSTEM: Final = 0x04
"""The self-test has passed."""
STATUS_COMMAND: Final = 0x08
"""The last byte written went to the command port."""
STATUS_UNLOCKED: Final = 0x10
STATUS_MOUSE: Final = 0x20
"""The byte at the data port is the mouse's."""

MODE_KEYBOARD_IRQ: Final = 0x01
MODE_MOUSE_IRQ: Final = 0x02
MODE_SYSTEM: Final = 0x04
MODE_KEYBOARD_OFF: Final = 0x10
MODE_MOUSE_OFF: Final = 0x20
MODE_TRANSLATE: Final = 0x40

_OUTPUT_PORT: Final = 0x03
"""No reset, and address line 20 is on. Bits 4 and 5 say which buffer is full."""
_INPUT_PORT: Final = 0x80
"""The keyboard is not locked."""
_MAX_ANSWERS: Final = 16
"""Most answers of the controller that wait; further ones are dropped."""

log: logging.Logger = logging.getLogger(__name__)


class Ps2Device:
    """The data port and the command port.

    The controller raises its line whenever a byte arrives at the data port, whatever the interrupt bits of
    the command byte are: the VM has no interrupts. It starts as firmware leaves it: both devices on,
    translation on, the keyboard sends, the mouse sends nothing until the guest enables it.

    The CPU's thread uses the guest's side. Any thread may call `key`, `move` and `home`.

    Args:
        raise_line: Called when a byte arrives at the data port.
    """

    def __init__(self, raise_line: RaiseLine) -> None:
        self.ports: Iterable[int] = (PORT_PS2_DATA, PORT_PS2_STATUS)
        self._raise_line = raise_line
        self._lock = threading.Lock()
        self._keyboard = Ps2Keyboard()
        self._mouse = Ps2Mouse()
        self._mode = MODE_KEYBOARD_IRQ | MODE_MOUSE_IRQ | MODE_SYSTEM | MODE_TRANSLATE
        self._answers: deque[tuple[int, bool]] = deque()
        self._data = 0
        self._full = self._is_mouse = self._was_command = False
        self._awaiting: int | None = None
        """The controller command whose second byte comes next at the data port."""

    # The host's side

    def key(self, scancode: int, *, down: bool) -> None:
        """Press or release a key.

        Args:
            scancode: XT set 1, with 0x80 added for an 0xE0 prefix, as `KeyEvent.scancode`. Other values are
                dropped.
            down: Whether the key is pressed; else it is released.
        """
        with self._lock:
            self._keyboard.key(scancode, down=down)
            filled = self._fill()
        if filled:
            self._raise_line()

    def move(self, dx: int, dy: int, buttons: int, dz: int = 0) -> None:
        """Move the mouse and set its buttons; ignored while the guest has not enabled the mouse.

        Args:
            dx: Counts to the right.
            dy: Counts down.
            buttons: Bit 0 left, 1 right, 2 middle, as in the mouse's packet.
            dz: Notches of the wheel, positive towards the user; ignored unless the guest has enabled the
                wheel.
        """
        with self._lock:
            self._mouse.move(dx, dy, dz, buttons)
            filled = self._fill()
        if filled:
            self._raise_line()

    def home(self, dx: int, dy: int) -> None:
        """Move the mouse to a border of the screen: later motions are not merged with this one."""
        with self._lock:
            self._mouse.home(dx, dy)
            filled = self._fill()
        if filled:
            self._raise_line()

    @property
    def mouse_epoch(self) -> int | None:
        """A number that grows when the guest resets or enables the mouse; None while the mouse sends nothing.

        When it changes, the guest may have moved its pointer anywhere.
        """
        return self._mouse.epoch if self._mouse.reporting and not self._mode & MODE_MOUSE_OFF else None

    # The guest's side

    def read(self, port: int, size: int) -> int:
        """Return the status, or the byte at the data port; if there is no new byte, the last one again."""
        with self._lock:
            if port == PORT_PS2_STATUS:
                return self._status()
            data = self._data
            self._full = False
            filled = self._fill()
        if filled:
            self._raise_line()
        return data

    def write(self, port: int, size: int, value: int) -> None:
        """Accept a command, or a byte for the controller, the keyboard or the mouse."""
        value &= 0xFF
        with self._lock:
            self._was_command = port == PORT_PS2_STATUS
            if self._was_command:
                self._awaiting = None
                self._command(value)
            else:
                self._data_byte(value)
            filled = self._fill()
        if filled:
            self._raise_line()

    def _status(self) -> int:
        status = STATUS_UNLOCKED
        if self._full:
            status |= STATUS_OUTPUT | (STATUS_MOUSE if self._is_mouse else 0)
        if self._mode & MODE_SYSTEM:
            status |= STATUS_SYSTEM
        if self._was_command:
            status |= STATUS_COMMAND
        return status

    def _fill(self) -> bool:
        """Move the next byte to the data port if the port is free; return whether it did."""
        if self._full:
            return False
        data: int | None = None
        is_mouse = False
        if self._answers:
            data, is_mouse = self._answers.popleft()
        if data is None and not self._mode & MODE_KEYBOARD_OFF:
            data = self._keyboard.next()
        if data is None and not self._mode & MODE_MOUSE_OFF:
            data, is_mouse = self._mouse.next(), True
        if data is None:
            return False
        self._data, self._is_mouse, self._full = data, is_mouse, True
        return True

    def _answer(self, value: int, *, mouse: bool = False) -> None:
        if len(self._answers) < _MAX_ANSWERS:
            self._answers.append((value, mouse))

    def _command(self, command: int) -> None:
        if command == 0x20:
            self._answer(self._mode)
        elif command == 0xA7:
            self._mode |= MODE_MOUSE_OFF
        elif command == 0xA8:
            self._mode &= ~MODE_MOUSE_OFF
        elif command in (0xA9, 0xAB):
            self._answer(0x00)  # interface test of mouse or keyboard: no error
        elif command == 0xAA:
            self._mode |= MODE_SYSTEM
            self._answer(0x55)
        elif command == 0xAD:
            self._mode |= MODE_KEYBOARD_OFF
        elif command == 0xAE:
            self._mode &= ~MODE_KEYBOARD_OFF
        elif command == 0xC0:
            self._answer(_INPUT_PORT)
        elif command == 0xD0:
            full = 0x20 if self._is_mouse else 0x10
            self._answer(_OUTPUT_PORT | (full if self._full else 0))
        elif command in (0x60, 0xD1, 0xD2, 0xD3, 0xD4):
            self._awaiting = command
        else:
            log.debug("i8042: unknown command %#x ignored", command)

    def _data_byte(self, value: int) -> None:
        command, self._awaiting = self._awaiting, None
        if command == 0x60:
            self._mode = value
        elif command in (0xD2, 0xD3):
            self._answer(value, mouse=command == 0xD3)
        elif command == 0xD4:
            # A byte for a device also enables it (IBM: "writing to 60h enables the keyboard"; QEMU does so
            # for both).
            self._mode &= ~MODE_MOUSE_OFF
            self._mouse.command(value)
        elif command is None:
            self._mode &= ~MODE_KEYBOARD_OFF
            self._keyboard.command(value, translate=bool(self._mode & MODE_TRANSLATE))
        # 0xD1 writes the output port, which here has neither a reset line nor an address line 20.
