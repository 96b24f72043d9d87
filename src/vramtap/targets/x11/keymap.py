"""`Keymap`: finds the key of an X server that sends a keysym, and whether Shift must be held for it.

Pure: no connection. The map is that of the core protocol (X protocol, section 5, "Keyboards"): a list of
keysyms for each keycode, of which the first is sent without Shift and the second with Shift. The other
columns (a second layout, AltGr) need modifiers that a client has no reason to hold. Their keysyms count as
missing and are typed with a spare key.
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
"""Alt, on all current maps."""
MOD4: Final = 1 << 6
"""Super."""
_SHORTCUT: Final = CONTROL | MOD1 | MOD4
_MODIFIERS: Final = 8


class Key(NamedTuple):
    """A key that sends a keysym.

    Args:
        keycode: Keycode of the key.
        shifted: Whether the key sends the keysym with Shift.
    """

    keycode: int
    shifted: bool


class Stroke(NamedTuple):
    """How to press a key.

    Args:
        keycode: Keycode of the key.
        shift: True to press Shift around it, False to release Shift around it, None to leave Shift alone.
    """

    keycode: int
    shift: bool | None = None


@dataclass(frozen=True, slots=True)
class Keymap:
    """A keyboard map and its modifiers.

    Args:
        first_keycode: Keycode of the first row.
        rows: The keysyms of each keycode.
        modifiers: The keycodes that set each of the eight modifiers; zeros are padding.
    """

    first_keycode: int
    rows: Sequence[Sequence[int]]
    modifiers: Sequence[Sequence[int]]

    def find(self, keysym: int, prefer: int | None = None) -> Key | None:
        """Return the key that sends a keysym.

        Args:
            keysym: Legacy or Unicode keysym.
            prefer: Keycode to take if several keys send it.

        Returns:
            A key that needs no Shift, if there is one; None if no key sends the keysym.
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
        """Return whether a keycode is on the map and sends any keysym."""
        index = keycode - self.first_keycode
        return 0 <= index < len(self.rows) and any(self.rows[index])

    def spare(self) -> list[int]:
        """Return the keycodes that send no keysym and set no modifier, in order."""
        used = {keycode for row in self.modifiers for keycode in row}
        codes = range(self.first_keycode, self.first_keycode + len(self.rows))
        return [code for code in codes if not self.has(code) and code not in used]

    def shift_keys(self) -> list[int]:
        """Return the keycodes that set Shift. Shift_L comes first if it is among them."""
        keys = [keycode for keycode in self.modifiers[0] if keycode] if self.modifiers else []
        left = self.find(SHIFT_L)
        return sorted(keys, key=lambda keycode: left is None or keycode != left.keycode)

    def plan(self, keysym: int, state: int, prefer: int | None = None) -> Stroke | None:
        """Return how to press a key so that it sends a keysym.

        Args:
            keysym: Legacy or Unicode keysym.
            state: The modifiers that are set on the server: `SHIFT`, `LOCK`, ...
            prefer: Keycode to take if several keys send the keysym.

        Returns:
            The key, and what to do with Shift around it; None if no key can send the keysym.
        """
        key = self.find(keysym, prefer)
        if key is None:
            return None
        keycode, shifted = key
        row = [*self.rows[keycode - self.first_keycode][:2], NO_SYMBOL][:2]
        if is_modifier(keysym) or row[0] == row[1] or (row[1] == NO_SYMBOL and not shifted):
            return Stroke(keycode)
        if is_keypad(keysym):
            # The effect of Shift on the keypad differs between maps, the effect of Num Lock does not.
            return Stroke(keycode) if shifted == bool(state & self._mask_of(NUM_LOCK)) else None
        letter = _is_letter_pair(row[0], row[1])
        # Caps Lock inverts Shift for letters (XKB protocol, canonical type ALPHABETIC).
        wanted = shifted ^ (letter and bool(state & LOCK))
        if wanted == bool(state & SHIFT):
            return Stroke(keycode)
        if state & _SHORTCUT and letter:
            # Ctrl+c is the same key whether or not the client's Caps Lock makes the letter a capital.
            return Stroke(keycode)
        if not wanted and (state & _SHORTCUT or char_of_keysym(keysym) is None):
            # The user holds Shift on purpose: for a shortcut, or to select with the arrow keys.
            return Stroke(keycode)
        return Stroke(keycode, wanted)

    def _mask_of(self, keysym: int) -> int:
        """Return the modifier that a key sets, as a bit of the state; 0 if it sets none."""
        key = self.find(keysym)
        for index, row in enumerate(self.modifiers[:_MODIFIERS]):
            if key is not None and key.keycode in row:
                return 1 << index
        return 0


def _is_letter_pair(low: int, high: int) -> bool:
    """Return whether two keysyms are the small and the capital form of one letter."""
    small, capital = char_of_keysym(low), char_of_keysym(high)
    return small is not None and capital is not None and small != capital and small.upper() == capital
