"""`UsKeyboard`: turns a client's key events into strokes of a US keyboard that type what was meant."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, NamedTuple

from vramtap.keyboard.keys import QemuKey, qcode_of_scancode, qemu_key_of_keysym, scancode_of_qcode

if TYPE_CHECKING:
    from vramtap.keyboard.events import KeyEvent

log: logging.Logger = logging.getLogger(__name__)


class Stroke(NamedTuple):
    """A key of a US keyboard that goes down or up.

    Args:
        qcode: QEMU's name of the key.
        scancode: XT set 1 scancode, 0x80 added for the prefix 0xE0. The client's own if it sent one.
        down: True when the key is pressed, False when it is released.
    """

    qcode: str
    scancode: int
    down: bool


_SHIFTS: Final = {"shift": 0x2A, "shift_r": 0x36}
"""Scancodes of the two Shift keys, by QEMU's name."""


class UsKeyboard:
    """Turns a client's key events into strokes, and keeps track of the keys that are held.

    If the client sends a scancode, that key is pressed as it is. If it sends only a keysym, the key of a US
    keyboard with this keysym is pressed. Where the state of the guest's Shift key would make that key type
    another character (a client sends `A` but does not hold Shift), Shift is pressed or released around the
    stroke. Caps Lock and Num Lock are assumed to be off at first.
    """

    def __init__(self) -> None:
        self._held: dict[tuple[int, int], tuple[str, int]] = {}
        self._caps = False

    def strokes(self, event: KeyEvent) -> list[Stroke]:
        """Return the strokes for an event; none, and a log message, if the keyboard has no such key."""
        # A scancode that no key has says nothing, and clients may send it with the keysyms of several keys.
        known = qcode_of_scancode(event.scancode) is not None
        ident = (event.scancode, 0) if known else (0, event.keysym)
        if not event.down:
            held = self._held.pop(ident, None)
            if held is None or held[0] in self._held_qcodes():
                return []
            return [Stroke(*held, down=False)]
        found = _key_of_event(event)
        if found is None:
            log.info(
                "key dropped: a US keyboard has no key for keysym %#x, scancode %#x",
                event.keysym,
                event.scancode,
            )
            return []
        key, scancode = found
        if key.qcode == "caps_lock" and ident not in self._held:
            self._caps = not self._caps
        around = self._shifts_around(key)
        self._held[ident] = key.qcode, scancode
        undone = [stroke._replace(down=not stroke.down) for stroke in reversed(around)]
        return [*around, Stroke(key.qcode, scancode, down=True), *undone]

    def release_all(self) -> list[Stroke]:
        """Return the strokes that release every key that is held."""
        scancodes = dict(sorted(self._held.values()))
        self._held.clear()
        return [Stroke(qcode, scancode, down=False) for qcode, scancode in scancodes.items()]

    def _held_qcodes(self) -> set[str]:
        return {qcode for qcode, _ in self._held.values()}

    def _shifts_around(self, key: QemuKey) -> list[Stroke]:
        """Return the strokes of Shift that must precede the key, so that it types what was meant."""
        held = sorted(_SHIFTS.keys() & self._held_qcodes())
        if key.shift is None:
            return []
        letter = len(key.qcode) == 1 and key.qcode.isalpha()
        wanted = key.shift != (self._caps and letter)
        if wanted and not held:
            return [Stroke("shift", _SHIFTS["shift"], down=True)]
        return [] if wanted else [Stroke(qcode, _SHIFTS[qcode], down=False) for qcode in held]


def _key_of_event(event: KeyEvent) -> tuple[QemuKey, int] | None:
    """Return the key that an event means, and its scancode; None if the keyboard has no such key."""
    qcode = qcode_of_scancode(event.scancode)
    if qcode is not None:
        return QemuKey(qcode), event.scancode
    key = qemu_key_of_keysym(event.keysym)
    scancode = scancode_of_qcode(key.qcode) if key is not None else None
    return (key, scancode) if key is not None and scancode is not None else None
