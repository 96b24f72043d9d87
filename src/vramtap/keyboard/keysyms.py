"""X11 keysyms and the characters they stand for.

A keysym is what an RFB client sends for a key (RFC 6143, 7.5.4) and what an X server's keyboard map holds.
Characters have up to two of them: the Unicode one, `0x01000000` plus the code point, and for older
alphabets a legacy one from a set of 256 that follows an ISO 8859 part or a national standard (X Window
System Protocol, appendix A; Xorg's keysymdef.h).
"""

from __future__ import annotations

from typing import Final

UNICODE_BASE: Final = 0x01000000
"""Added to a code point of U+0100 and above to make its keysym."""

NO_SYMBOL: Final = 0
BACKSPACE: Final = 0xFF08
TAB: Final = 0xFF09
RETURN: Final = 0xFF0D
ESCAPE: Final = 0xFF1B
DELETE: Final = 0xFFFF
LEFT_TAB: Final = 0xFE20
SHIFT_L: Final = 0xFFE1
SHIFT_R: Final = 0xFFE2
NUM_LOCK: Final = 0xFF7F

_CONTROLS: Final = {
    "\b": BACKSPACE,
    "\t": TAB,
    "\n": RETURN,
    "\r": RETURN,
    "\x1b": ESCAPE,
    "\x7f": DELETE,
}

_CODECS: Final = {
    0x01: "iso8859_2",
    0x02: "iso8859_3",
    0x03: "iso8859_4",
    0x05: "iso8859_6",
    0x06: "koi8_r",
    0x07: "iso8859_7",
    0x0C: "iso8859_8",
    0x0D: "tis_620",
    0x13: "iso8859_15",
}
"""High byte of a legacy keysym: the standard that its low byte follows, but for `_EXCEPTIONS`."""


def _run(first: int, text: str) -> dict[int, str]:
    """Consecutive keysyms from `first`; a space leaves one out."""
    return {first + index: char for index, char in enumerate(text) if char != " "}


_EXCEPTIONS: Final = (
    # Cyrillic: the letters of Serbian, Macedonian, Ukrainian and Byelorussian stand where KOI8-R draws lines.
    _run(0x6A1, "\u0452\u0453\u0451\u0454\u0455\u0456\u0457\u0458\u0459\u045a\u045b\u045c\u0491\u045e\u045f")
    | _run(
        0x6B0, "\u2116\u0402\u0403\u0401\u0404\u0405\u0406\u0407\u0408\u0409\u040a\u040b\u040c\u0490\u040e"
    )
    | {0x6BF: "\u040f"}
    # Greek: accented letters have places of their own, and the two small sigmas are the other way round.
    | _run(0x7A1, "\u0386\u0388\u0389\u038a\u03aa \u038c\u038e\u03ab \u038f  \u0385")
    | _run(0x7B1, "\u03ac\u03ad\u03ae\u03af\u03ca\u0390\u03cc\u03cd\u03cb\u03b0\u03ce")
    | {0x7D2: "\u03a3", 0x7F2: "\u03c3", 0x7F3: "\u03c2"}
    | {0x20AC: "\u20ac"}
    # The keypad types characters too.
    | _run(0xFFAA, "*+,-./0123456789")
    | {0xFFBD: "=", 0xFF80: " "}
)


def char_to_keysym(char: str) -> int:
    """The keysym that types a character.

    Args:
        char: One character; newline, tab, backspace, escape and delete give the keys of that name.

    Returns:
        The keysym: the code itself for Latin-1, else the Unicode keysym.

    Raises:
        ValueError: not one character, a surrogate, or a control character that no key types.
    """
    if len(char) != 1:
        raise ValueError(f"one character has a keysym, not {char!r}")
    if char in _CONTROLS:
        return _CONTROLS[char]
    code = ord(char)
    if 0x20 <= code <= 0x7E or 0xA0 <= code <= 0xFF:
        return code
    if code < 0x100 or 0xD800 <= code <= 0xDFFF:
        raise ValueError(f"no key types {char!r}")
    return UNICODE_BASE + code


def keysym_to_char(keysym: int) -> str | None:
    """The character that a keysym types; None for a key that types none, as Return or Shift."""
    if 0x20 <= keysym <= 0x7E or 0xA0 <= keysym <= 0xFF:
        return chr(keysym)
    if UNICODE_BASE + 0x20 <= keysym <= UNICODE_BASE + 0x10FFFF:
        code = keysym - UNICODE_BASE
        return None if 0x7F <= code <= 0x9F or 0xD800 <= code <= 0xDFFF else chr(code)
    if keysym in _EXCEPTIONS:
        return _EXCEPTIONS[keysym]
    codec = _CODECS.get(keysym >> 8)
    if codec is None or keysym & 0xFF < 0xA0:
        return None
    # A byte that the standard leaves open gives an empty string.
    return bytes([keysym & 0xFF]).decode(codec, "ignore") or None


def same_key(first: int, second: int) -> bool:
    """Whether two keysyms name one key: equal, or a legacy and a Unicode name of one character.

    A keypad key types the same character as the key in the main block, and is still another one.
    """
    if first == second:
        return True
    if is_keypad(first) or is_keypad(second):
        return False
    char = keysym_to_char(first)
    return char is not None and char == keysym_to_char(second)


def is_keypad(keysym: int) -> bool:
    """Whether it is one of the keypad's keysyms, whose level Num Lock chooses (XK_KP_*)."""
    return 0xFF80 <= keysym <= 0xFFBD


def is_modifier(keysym: int) -> bool:
    """Whether it shifts, locks or changes the meaning of other keys."""
    return 0xFFE1 <= keysym <= 0xFFEE or 0xFE01 <= keysym <= 0xFE13 or keysym in (NUM_LOCK, 0xFF7E)
