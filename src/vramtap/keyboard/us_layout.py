"""A client's keys on a US keyboard: which of its keys go down and up so that what was meant is typed."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, NamedTuple

from vramtap.keyboard.keys import QemuKey, qcode_of_scancode, qemu_key_of_keysym, scancode_of_qcode

if TYPE_CHECKING:
    from vramtap.keyboard.events import KeyEvent

log = logging.getLogger(__name__)


class Stroke(NamedTuple):
    """A key of the keyboard going down or up.

    Args:
        qcode: QEMU's name of the key.
        scancode: XT set 1 scancode, 0x80 added for an 0xE0 prefix: the client's own if it sent one.
        down: Pressed, or released.
    """

    qcode: str
    scancode: int
    down: bool


_SHIFTS: Final = {"shift": 0x2A, "shift_r": 0x36}
"""Both Shift keys and their scancodes."""


class UsKeyboard:
    """Keeps what is held and turns a client's events into strokes.

    A client that names keys by position (scancodes) is followed to the letter. One that names them by
    meaning (keysyms) is taken to look at a US keyboard: where the guest's Shift would turn the key into
    another character (a client that types `A` without holding Shift), Shift is pressed or let go around
    it. Lock keys are assumed off at first.
    """

    def __init__(self) -> None:
        self._held: dict[tuple[int, int], tuple[str, int]] = {}
        self._caps = False

    def strokes(self, event: KeyEvent) -> list[Stroke]:
        """What to do for an event; nothing, with a line in the log, for a key that is not there."""
        # One that is no key's tells us nothing, and may come with keysyms of several keys.
        known = qcode_of_scancode(event.scancode) is not None
        ident = (event.scancode, 0) if known else (0, event.keysym)
        if not event.down:
            held = self._held.pop(ident, None)
            if held is None or held[0] in self._held_qcodes():
                return []
            return [Stroke(*held, down=False)]
        found = _find(event)
        if found is None:
            log.info("no key for keysym %#x scancode %#x: dropped", event.keysym, event.scancode)
            return []
        key, scancode = found
        if key.qcode == "caps_lock" and ident not in self._held:
            self._caps = not self._caps
        around = self._shifts_around(key)
        self._held[ident] = key.qcode, scancode
        undone = [stroke._replace(down=not stroke.down) for stroke in reversed(around)]
        return [*around, Stroke(key.qcode, scancode, down=True), *undone]

    def release_all(self) -> list[Stroke]:
        """Let go of every key still held."""
        scancodes = dict(sorted(self._held.values()))
        self._held.clear()
        return [Stroke(qcode, scancode, down=False) for qcode, scancode in scancodes.items()]

    def _held_qcodes(self) -> set[str]:
        return {qcode for qcode, _ in self._held.values()}

    def _shifts_around(self, key: QemuKey) -> list[Stroke]:
        """What to do to Shift before the key, so that it types what was meant."""
        held = sorted(_SHIFTS.keys() & self._held_qcodes())
        if key.shift is None:
            return []
        letter = len(key.qcode) == 1 and key.qcode.isalpha()
        wanted = key.shift != (self._caps and letter)
        if wanted and not held:
            return [Stroke("shift", _SHIFTS["shift"], down=True)]
        return [] if wanted else [Stroke(qcode, _SHIFTS[qcode], down=False) for qcode in held]


def _find(event: KeyEvent) -> tuple[QemuKey, int] | None:
    """The key that an event means, and its scancode."""
    qcode = qcode_of_scancode(event.scancode)
    if qcode is not None:
        return QemuKey(qcode), event.scancode
    key = qemu_key_of_keysym(event.keysym)
    scancode = scancode_of_qcode(key.qcode) if key is not None else None
    return (key, scancode) if key is not None and scancode is not None else None
