"""An X server's keyboard map: which key sends a keysym, and whether Shift must be held for it.

Pure: no connection. The map is the core protocol's (X protocol, section 5, "Keyboards"): for each keycode
a list of keysyms, of which the first two are those without Shift and with it. What other columns hold - a
second layout, AltGr - needs modifiers that a client cannot be expected to have pressed for this server's
layout, so such keysyms count as missing and are typed with a spare key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from vramtap.keyboard.keysyms import (
    NO_SYMBOL,
    NUM_LOCK,
    SHIFT_L,
    char_of_keysym,
    is_keypad,
    is_modifier,
    same_key,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

SHIFT: Final = 1 << 0
LOCK: Final = 1 << 1
CONTROL: Final = 1 << 2
MOD1: Final = 1 << 3
"""Alt, on every map of this century."""
MOD4: Final = 1 << 6
"""Super."""
_SHORTCUT: Final = CONTROL | MOD1 | MOD4
_MODIFIERS: Final = 8


class Key(NamedTuple):
    """A key that sends a keysym.

    Args:
        keycode: Of the key.
        shifted: Whether the keysym is the one with Shift.
    """

    keycode: int
    shifted: bool


class Stroke(NamedTuple):
    """How to press a key.

    Args:
        keycode: Of the key.
        shift: True: press Shift around it; False: let go of Shift around it; None: leave Shift as it is.
    """

    keycode: int
    shift: bool | None = None


@dataclass(frozen=True, slots=True)
class Keymap:
    """A keyboard map and its modifiers.

    Args:
        first_keycode: The keycode that the first row is for.
        rows: For each keycode, its keysyms.
        modifiers: For each of the eight modifiers, the keycodes that set it; zeros are fill.
    """

    first_keycode: int
    rows: Sequence[Sequence[int]]
    modifiers: Sequence[Sequence[int]]

    def find(self, keysym: int, prefer: int | None = None) -> Key | None:
        """The key that sends a keysym.

        Args:
            keysym: Legacy or Unicode.
            prefer: The keycode to take if several send it.

        Returns:
            One that needs no Shift if there is one; None if no key sends it.
        """
        if keysym == NO_SYMBOL:
            return None
        found = [
            Key(self.first_keycode + index, bool(column))
            for index, row in enumerate(self.rows)
            for column, other in enumerate(row[:2])
            if other != NO_SYMBOL and same_key(keysym, other)
        ]
        return min(found, key=lambda key: (key.keycode != prefer, key.shifted, key.keycode), default=None)

    def has(self, keycode: int) -> bool:
        """Whether a keycode is on the map and sends anything."""
        index = keycode - self.first_keycode
        return 0 <= index < len(self.rows) and any(self.rows[index])

    def spare(self) -> list[int]:
        """Keycodes that send nothing and modify nothing, by number."""
        used = {keycode for row in self.modifiers for keycode in row}
        codes = range(self.first_keycode, self.first_keycode + len(self.rows))
        return [code for code in codes if not self.has(code) and code not in used]

    def shift_keys(self) -> list[int]:
        """The keycodes that set Shift; the first is Shift_L if that is one of them."""
        keys = [keycode for keycode in self.modifiers[0] if keycode] if self.modifiers else []
        left = self.find(SHIFT_L)
        return sorted(keys, key=lambda keycode: left is None or keycode != left.keycode)

    def plan(self, keysym: int, state: int, prefer: int | None = None) -> Stroke | None:
        """How to press a key so that it sends a keysym.

        Args:
            keysym: Legacy or Unicode.
            state: The modifiers that are set now, as the server says: `SHIFT`, `LOCK`, ...
            prefer: The keycode to take if several send it.

        Returns:
            The key, and what to do with Shift around it; None if the map has no way to send it.
        """
        key = self.find(keysym, prefer)
        if key is None:
            return None
        keycode, shifted = key
        row = [*self.rows[keycode - self.first_keycode][:2], NO_SYMBOL][:2]
        if is_modifier(keysym) or row[0] == row[1] or (row[1] == NO_SYMBOL and not shifted):
            return Stroke(keycode)
        if is_keypad(keysym):
            # What Shift does to the keypad differs between maps; what Num Lock does is the same in all.
            return Stroke(keycode) if shifted == bool(state & self._mask_of(NUM_LOCK)) else None
        letter = _is_letter_pair(row[0], row[1])
        # Caps Lock turns Shift round for letters (XKB protocol, canonical type ALPHABETIC).
        wanted = shifted ^ (letter and bool(state & LOCK))
        if wanted == bool(state & SHIFT):
            return Stroke(keycode)
        if state & _SHORTCUT and letter:
            # Ctrl+c is that key whatever Caps Lock of the client makes of the letter.
            return Stroke(keycode)
        if not wanted and (state & _SHORTCUT or char_of_keysym(keysym) is None):
            # Shift is part of the shortcut, or selects with the arrow keys: it is what the user holds.
            return Stroke(keycode)
        return Stroke(keycode, wanted)

    def _mask_of(self, keysym: int) -> int:
        """The modifier that a key sets, as a bit of the state; 0 if none."""
        key = self.find(keysym)
        for index, row in enumerate(self.modifiers[:_MODIFIERS]):
            if key is not None and key.keycode in row:
                return 1 << index
        return 0


def _is_letter_pair(low: int, high: int) -> bool:
    """Whether two keysyms are one letter, small and capital."""
    small, capital = char_of_keysym(low), char_of_keysym(high)
    return small is not None and capital is not None and small != capital and small.upper() == capital
