"""X11 keysyms, the characters they type, and the names that users give keys.

A keysym is what an RFB client sends for a key (RFC 6143, 7.5.4) and what the keyboard map of an X server
holds. A character has up to two keysyms. The Unicode keysym is `0x01000000` plus the code point. Older
alphabets also have legacy keysyms in sets of 256, each of which follows a part of ISO 8859 or a national
standard (X Window System Protocol, appendix A; Xorg's keysymdef.h).
"""

from __future__ import annotations

import difflib
from typing import Final

from vramtap.errors import UsageError

UNICODE_BASE: Final = 0x01000000
"""The Unicode keysym of a code point from U+0100 is this plus the code point."""

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
"""Codec for the low byte of a legacy keysym, by its high byte. `_EXCEPTIONS` come first."""


def _run(first: int, text: str) -> dict[int, str]:
    """Return a map of consecutive keysyms from `first` to these characters; a space skips a keysym."""
    return {first + index: char for index, char in enumerate(text) if char != " "}


_EXCEPTIONS: Final = (
    # Cyrillic: Serbian, Macedonian, Ukrainian and Byelorussian letters take the places of KOI8-R's line
    # drawing characters.
    _run(0x6A1, "\u0452\u0453\u0451\u0454\u0455\u0456\u0457\u0458\u0459\u045a\u045b\u045c\u0491\u045e\u045f")
    | _run(
        0x6B0, "\u2116\u0402\u0403\u0401\u0404\u0405\u0406\u0407\u0408\u0409\u040a\u040b\u040c\u0490\u040e"
    )
    | {0x6BF: "\u040f"}
    # Greek: accented letters have other places, and the two small sigmas are swapped.
    | _run(0x7A1, "\u0386\u0388\u0389\u038a\u03aa \u038c\u038e\u03ab \u038f  \u0385")
    | _run(0x7B1, "\u03ac\u03ad\u03ae\u03af\u03ca\u0390\u03cc\u03cd\u03cb\u03b0\u03ce")
    | {0x7D2: "\u03a3", 0x7F2: "\u03c3", 0x7F3: "\u03c2"}
    | {0x20AC: "\u20ac"}
    # The keypad.
    | _run(0xFFAA, "*+,-./0123456789")
    | {0xFFBD: "=", 0xFF80: " "}
)


_NAMES: Final = {
    "ctrl": 0xFFE3,
    "control": 0xFFE3,
    "ctrl_l": 0xFFE3,
    "ctrl_r": 0xFFE4,
    "shift": SHIFT_L,
    "shift_l": SHIFT_L,
    "shift_r": SHIFT_R,
    "alt": 0xFFE9,
    "alt_l": 0xFFE9,
    "alt_r": 0xFFEA,
    "altgr": 0xFE03,
    "super": 0xFFEB,
    "super_l": 0xFFEB,
    "super_r": 0xFFEC,
    "meta": 0xFFEB,
    "win": 0xFFEB,
    "cmd": 0xFFEB,
    "menu": 0xFF67,
    "caps_lock": 0xFFE5,
    "num_lock": NUM_LOCK,
    "scroll_lock": 0xFF14,
    "enter": RETURN,
    "return": RETURN,
    "tab": TAB,
    "space": 0x20,
    "plus": 0x2B,
    "minus": 0x2D,
    "backspace": BACKSPACE,
    "esc": ESCAPE,
    "escape": ESCAPE,
    "delete": DELETE,
    "del": DELETE,
    "insert": 0xFF63,
    "ins": 0xFF63,
    "home": 0xFF50,
    "end": 0xFF57,
    "page_up": 0xFF55,
    "pgup": 0xFF55,
    "page_down": 0xFF56,
    "pgdn": 0xFF56,
    "left": 0xFF51,
    "up": 0xFF52,
    "right": 0xFF53,
    "down": 0xFF54,
    "pause": 0xFF13,
    "print": 0xFF61,
    "print_screen": 0xFF61,
    "sysrq": 0xFF15,
    "kp_enter": 0xFF8D,
    "kp_multiply": 0xFFAA,
    "kp_add": 0xFFAB,
    "kp_subtract": 0xFFAD,
    "kp_decimal": 0xFFAE,
    "kp_divide": 0xFFAF,
    "volume_down": 0x1008FF11,
    "mute": 0x1008FF12,
    "volume_up": 0x1008FF13,
}
"""Keysyms of the keys that users name in words. Function keys and the keypad's digits follow."""
_NAMES.update({f"f{number}": 0xFFBD + number for number in range(1, 13)})
_NAMES.update({f"kp_{digit}": 0xFFB0 + digit for digit in range(10)})
_BY_PLAIN_NAME: Final = {name.replace("_", ""): keysym for name, keysym in _NAMES.items()}


def keysym_of_char(char: str) -> int:
    """Return the keysym that types a character.

    Args:
        char: One character. Newline, tab, backspace, escape and delete give the keys of these names.

    Returns:
        The code point itself for Latin-1, else the Unicode keysym.

    Raises:
        UsageError: `char` is not one character, or is a surrogate or another control character.
    """
    if len(char) != 1:
        raise UsageError("type", repr(char), "is not one character", "pass the characters one by one")
    if char in _CONTROLS:
        return _CONTROLS[char]
    code = ord(char)
    if 0x20 <= code <= 0x7E or 0xA0 <= code <= 0xFF:
        return code
    if code < 0x100 or 0xD800 <= code <= 0xDFFF:
        raise UsageError("type", repr(char), "no key types this character", "remove it from the text")
    return UNICODE_BASE + code


def keysym_of_name(name: str) -> int:
    """Return the keysym of a key that a user names.

    Args:
        name: A word such as `ctrl`, `alt`, `delete`, `enter`, `f5` or `up`, or one character. Upper and
            lower case are equal: `A` is the key `a`. `_`, `-` and spaces in words are ignored.

    Raises:
        UsageError: no key has this name. The message lists similar names.
    """
    if len(name) == 1:
        small = name.lower()
        return keysym_of_char(small if len(small) == 1 else name)
    plain = name.lower().replace("_", "").replace("-", "").replace(" ", "")
    keysym = _BY_PLAIN_NAME.get(plain)
    if keysym is None:
        close = difflib.get_close_matches(name[:32].lower(), _NAMES, n=3, cutoff=0.5)
        known = ", ".join(close or ("ctrl", "alt", "shift", "super", "enter", "esc", "delete", "f1", "up"))
        remedy = f"{'similar names' if close else 'known names are, among others'}: {known}"
        raise UsageError("press", repr(name[:64]), "is not the name of a key", remedy)
    return keysym


def char_of_keysym(keysym: int) -> str | None:
    """Return the character that a keysym types; None if it types none, as Return and Shift."""
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
    # A byte without a character in the standard decodes to an empty string.
    return bytes([keysym & 0xFF]).decode(codec, "ignore") or None


def same_key(first: int, second: int) -> bool:
    """Return whether two keysyms mean the same key.

    They do if they are equal, or if they are the legacy and the Unicode keysym of one character. A keypad
    key is never the same as a key of the main block, although both type the same character.
    """
    if first == second:
        return True
    if is_keypad(first) or is_keypad(second):
        return False
    char = char_of_keysym(first)
    return char is not None and char == char_of_keysym(second)


def is_keypad(keysym: int) -> bool:
    """Return whether this is a keysym of the keypad (XK_KP_*), whose level Num Lock chooses."""
    return 0xFF80 <= keysym <= 0xFFBD


def is_modifier(keysym: int) -> bool:
    """Return whether this key shifts, locks or changes the meaning of other keys."""
    return 0xFFE1 <= keysym <= 0xFFEE or 0xFE01 <= keysym <= 0xFE13 or keysym in (NUM_LOCK, 0xFF7E)
