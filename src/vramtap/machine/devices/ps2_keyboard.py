"""The PS/2 keyboard: commands and answers, and keys that come faster than the guest takes them.

Sources: IBM PS/2 Hardware Interface Technical Reference, "Keyboards (101- and 102-Key)"; QEMU:
hw/input/ps2.c.
"""

from __future__ import annotations

from collections import deque
from typing import Final

MAX_KEYS: Final = 64
"""Keys waiting for a guest that does not read: beyond, presses are dropped."""
_MAX_ANSWERS: Final = 16

_ACK: Final = 0xFA
_RESEND: Final = 0xFE
_PAUSE: Final = 0xC6
_PRINT: Final = 0xB7
_CTRLS: Final = frozenset((0x1D, 0x9D))
_SET_LEDS, _ECHO, _SCANCODES, _IDENTIFY, _TYPEMATIC = 0xED, 0xEE, 0xF0, 0xF2, 0xF3
_ENABLE, _DISABLE, _DEFAULTS, _REPEAT, _RESET = 0xF4, 0xF5, 0xF6, 0xFE, 0xFF
_WITH_ARGUMENT: Final = frozenset((_SET_LEDS, _SCANCODES, _TYPEMATIC))
_TRANSLATED_SETS: Final = {1: 0x43, 2: 0x41, 3: 0x3F}
"""What the controller's translation makes of the number of a scancode set."""


class Ps2Keyboard:
    """A keyboard; not locked: the controller does that.

    It sends set 1, what the controller's translation gives, whichever set was chosen and whether
    translation is on or not: the choice is answered and kept, no more.
    """

    def __init__(self) -> None:
        self._answers: deque[int] = deque()
        self._keys: deque[bytes] = deque()
        self._rest: deque[int] = deque()
        """Bytes of a key of which some have been sent: nothing may come between them."""
        self._held: set[int] = set()
        """Keys whose press the guest has been, or will be, told of."""
        self._scanning = True
        self._set = 2
        self._last = 0
        self._awaiting: int | None = None

    def key(self, scancode: int, *, down: bool) -> None:
        """Press or release a key; see `Ps2Device.key`.

        Where too many wait, a press is dropped, and its release with it. The release of a key whose press
        was taken always is: at most one of each key can wait beyond `MAX_KEYS`.
        """
        if not self._scanning or not 1 <= scancode <= 0xFF or scancode == 0x80:
            return
        if not down:
            if scancode in self._held:
                self._held.remove(scancode)
                self._keys.append(_code(scancode, down=False))
        elif len(self._keys) >= MAX_KEYS:
            return
        elif scancode == _PAUSE:
            # It sends its release at once, and with Ctrl it is Break.
            broken = self._held & _CTRLS
            self._keys.append(b"\xe0\x46\xe0\xc6" if broken else b"\xe1\x1d\x45\xe1\x9d\xc5")
        else:
            self._held.add(scancode)
            self._keys.append(_code(scancode, down=True))

    def next(self) -> int | None:
        """The next byte for the guest; None if there is nothing to say."""
        if self._rest:
            return self._sent(self._rest.popleft())
        if self._answers:
            return self._sent(self._answers.popleft())
        if self._scanning and self._keys:
            self._rest.extend(self._keys.popleft())
            return self._sent(self._rest.popleft())
        return None

    def _sent(self, value: int) -> int:
        self._last = value
        return value

    def _answer(self, *values: int) -> None:
        if len(self._answers) + len(values) <= _MAX_ANSWERS:
            self._answers.extend(values)

    def command(self, value: int, *, translate: bool) -> None:
        """A byte the guest sent.

        Args:
            value: The byte.
            translate: Whether the controller translates what we answer.
        """
        command, self._awaiting = self._awaiting, None
        if command is not None and value < _SET_LEDS:
            self._argument(command, value, translate=translate)
        elif value in _WITH_ARGUMENT:
            self._answer(_ACK)
            self._awaiting = value
        elif value == _ECHO:
            self._answer(_ECHO)
        elif value == _IDENTIFY:
            self._answer(_ACK, 0xAB, 0x41 if translate else 0x83)
        elif value == _REPEAT:
            self._answer(self._last)
        elif value in (_ENABLE, _DISABLE, _DEFAULTS, _RESET):
            self._restart(scanning=value != _DISABLE, keep=value == _ENABLE)
            self._answer(*((_ACK, 0xAA) if value == _RESET else (_ACK,)))
        else:
            self._answer(_RESEND)

    def _argument(self, command: int, value: int, *, translate: bool) -> None:
        if command == _SCANCODES and value == 0:
            self._answer(_ACK, _TRANSLATED_SETS[self._set] if translate else self._set)
            return
        if command == _SCANCODES:
            if value not in _TRANSLATED_SETS:
                self._answer(_RESEND)
                return
            self._set = value
        self._answer(_ACK)

    def _restart(self, *, scanning: bool, keep: bool) -> None:
        if not keep:
            self._keys.clear()
            self._rest.clear()
            self._held.clear()
            self._answers.clear()
            self._set = 2
        self._scanning = scanning


def _code(scancode: int, *, down: bool) -> bytes:
    """What a key sends (IBM: set 1; Print Screen with the Shift that keyboards of old had to send)."""
    if scancode == _PRINT:
        return b"\xe0\x2a\xe0\x37" if down else b"\xe0\xb7\xe0\xaa"
    low = scancode & 0x7F | (0 if down else 0x80)
    return bytes([0xE0, low]) if scancode & 0x80 else bytes([low])
