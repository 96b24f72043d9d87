"""Scan codes (set 1) of a US keyboard, by the character that a key types."""

from __future__ import annotations

from typing import Final

_ROWS: Final = {
    0x02: ("1234567890-=", "!@#$%^&*()_+"),
    0x10: ("qwertyuiop[]", "QWERTYUIOP{}"),
    0x1E: ("asdfghjkl;'`", 'ASDFGHJKL:"~'),
    0x2B: ("\\zxcvbnm,./", "|ZXCVBNM<>?"),
}
"""Scan code of the first key of each row. The other keys follow in order."""
_SHIFT: Final = 0x2A
_OTHERS: Final = {"\b": 0x0E, "\t": 0x0F, "\n": 0x1C, " ": 0x39}


def stroke_of(character: str) -> list[int]:
    """Return the scan codes of the keys to hold for a character, in order."""
    if character in _OTHERS:
        return [_OTHERS[character]]
    for first, (plain, shifted) in _ROWS.items():
        if character in plain:
            return [first + plain.index(character)]
        if character in shifted:
            return [_SHIFT, first + shifted.index(character)]
    raise ValueError(f"no key types {character!r}")
