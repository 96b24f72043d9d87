"""Ps2Keyboard: commands and answers of the keyboard, and a queue of keys for a slow guest.

Sources: IBM PS/2 Hardware Interface Technical Reference, "Keyboards (101- and 102-Key)"; QEMU:
hw/input/ps2.c.
"""

from __future__ import annotations

from collections import deque
from typing import Final

MAX_KEYS: Final = 64
"""Most key events that wait for the guest; further presses are dropped."""
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
"""Number of a scancode set, and the same number after the controller's translation."""


class Ps2Keyboard:
    """A keyboard. It does not lock: its controller does.

    It always sends set 1, the result of the controller's translation. The guest may select another set or
    turn translation off; the keyboard acknowledges and stores this but ignores it.
    """

    def __init__(self) -> None:
        self._answers: deque[int] = deque()
        self._keys: deque[bytes] = deque()
        self._rest: deque[int] = deque()
        """Remaining bytes of a key that is partly sent: no other byte may come between them."""
        self._held: set[int] = set()
        """Keys whose press was sent to the guest or waits to be."""
        self._scanning = True
        self._set = 2
        self._last = 0
        self._awaiting: int | None = None

    def key(self, scancode: int, *, down: bool) -> None:
        """Press or release a key; see `Ps2Device.key`.

        If too many keys wait, a press is dropped together with its release. The release of an accepted press
        is always accepted: at most one for each key can wait beyond `MAX_KEYS`.
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
            # Pause sends its release at once. With Ctrl it is Break.
            is_break = self._held & _CTRLS
            self._keys.append(b"\xe0\x46\xe0\xc6" if is_break else b"\xe1\x1d\x45\xe1\x9d\xc5")
        else:
            self._held.add(scancode)
            self._keys.append(_code(scancode, down=True))

    def next(self) -> int | None:
        """Return the next byte for the guest; None if there is none."""
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
        """Accept a byte that the guest sent.

        Args:
            value: The byte.
            translate: Whether the controller translates the keyboard's answers.
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
    """Return what a key sends (IBM: set 1; Print Screen includes the Shift that old keyboards sent)."""
    if scancode == _PRINT:
        return b"\xe0\x2a\xe0\x37" if down else b"\xe0\xb7\xe0\xaa"
    low = scancode & 0x7F | (0 if down else 0x80)
    return bytes([0xE0, low]) if scancode & 0x80 else bytes([low])
