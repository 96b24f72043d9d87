"""A client's keys on a US keyboard: which of its keys go down and up so that what was meant is typed."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from vramtap.keyboard.keys import QemuKey, qcode_of_scancode, qemu_key_of_keysym

if TYPE_CHECKING:
    from vramtap.keyboard.events import KeyEvent

_SHIFTS: Final = frozenset({"shift", "shift_r"})

log = logging.getLogger(__name__)

Stroke = tuple[str, bool]
"""A key by QEMU's name, and whether it goes down."""


class UsKeyboard:
    """Keeps what is held and turns a client's events into strokes.

    A client that names keys by position (scancodes) is followed to the letter. One that names them by
    meaning (keysyms) is taken to look at a US keyboard: where the guest's Shift would turn the key into
    another character (a client that types `A` without holding Shift), Shift is pressed or let go around
    it. Lock keys are assumed off at first.
    """

    def __init__(self) -> None:
        self._held: dict[tuple[int, int], str] = {}
        self._caps = False

    def strokes(self, event: KeyEvent) -> list[Stroke]:
        """What to do for an event; nothing, with a line in the log, for a key that is not there."""
        # One that is no key's tells us nothing, and may come with keysyms of several keys.
        known = qcode_of_scancode(event.scancode) is not None
        ident = (event.scancode, 0) if known else (0, event.keysym)
        if not event.down:
            code = self._held.pop(ident, None)
            return [(code, False)] if code is not None and code not in self._held.values() else []
        key = _find(event)
        if key is None:
            log.info("no key for keysym %#x scancode %#x: dropped", event.keysym, event.scancode)
            return []
        if key.qcode == "caps_lock" and ident not in self._held:
            self._caps = not self._caps
        around = self._shifts_around(key)
        self._held[ident] = key.qcode
        return [*around, (key.qcode, True), *[(code, not down) for code, down in reversed(around)]]

    def release_all(self) -> list[Stroke]:
        """Let go of every key still held."""
        strokes = [(code, False) for code in sorted(set(self._held.values()))]
        self._held.clear()
        return strokes

    def _shifts_around(self, key: QemuKey) -> list[Stroke]:
        """What to do to Shift before the key, so that it types what was meant."""
        held = sorted(_SHIFTS.intersection(self._held.values()))
        if key.shift is None:
            return []
        letter = len(key.qcode) == 1 and key.qcode.isalpha()
        wanted = key.shift != (self._caps and letter)
        if wanted and not held:
            return [("shift", True)]
        return [] if wanted else [(code, False) for code in held]


def _find(event: KeyEvent) -> QemuKey | None:
    code = qcode_of_scancode(event.scancode)
    return QemuKey(code) if code is not None else qemu_key_of_keysym(event.keysym)
