"""Tables of keys: XT scancodes, Linux and X11 keycodes, QEMU's key names, and the keysyms of a US keyboard.

Sources. QEMU's names are QKeyCode of qapi/ui.json. Scancodes are numbered as in the RFB extension "QEMU
Extended Key Event" (rfbproto: XT set 1, with 0x80 added for a key with the prefix 0xE0). Linux codes are
those of include/uapi/linux/input-event-codes.h. The pairs of scancode and name agree with what the VNC
server of QEMU 7.2 does for all 255 scancodes, the pairs of keysym and name with its `-k en-us`.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from vramtap.keyboard.keysyms import LEFT_TAB, UNICODE_BASE, char_of_keysym

X11_MIN_KEYCODE: Final = 8
"""First X11 keycode. On Linux a keycode is the Linux code plus 8 (xkeyboard-config, keycodes/evdev)."""


class QemuKey(NamedTuple):
    """A key of a US keyboard, and the modifiers it needs to send a given keysym.

    Args:
        qcode: QEMU's name of the key.
        shift: True if Shift must be held, False if it must not be held, None if it does not matter.
        num_lock: The same for Num Lock, for keys of the keypad.
    """

    qcode: str
    shift: bool | None = None
    num_lock: bool | None = None


# QEMU's names of the 83 keys of the first PC keyboard. Scancode and Linux code are equal and count from 1.
_FIRST_83: Final = """
    esc 1 2 3 4 5 6 7 8 9 0 minus equal backspace
    tab q w e r t y u i o p bracket_left bracket_right ret
    ctrl a s d f g h j k l semicolon apostrophe grave_accent
    shift backslash z x c v b n m comma dot slash shift_r
    kp_multiply alt spc caps_lock f1 f2 f3 f4 f5 f6 f7 f8 f9 f10
    num_lock scroll_lock kp_7 kp_8 kp_9 kp_subtract kp_4 kp_5 kp_6 kp_add kp_1 kp_2 kp_3 kp_0 kp_decimal
"""

# Scancode, Linux code and QEMU's name of the keys that came later.
_LATER_KEYS: Final = (
    (0x54, 99, "print"),
    (0x56, 86, "less"),
    (0x57, 87, "f11"),
    (0x58, 88, "f12"),
    (0x59, 117, "kp_equals"),
    (0x70, 93, "katakanahiragana"),
    (0x71, 123, "lang2"),
    (0x72, 122, "lang1"),
    (0x73, 89, "ro"),
    (0x77, 91, "hiragana"),
    (0x79, 92, "henkan"),
    (0x7B, 94, "muhenkan"),
    (0x7D, 124, "yen"),
    (0x7E, 121, "kp_comma"),
    (0x90, 165, "audioprev"),
    (0x99, 163, "audionext"),
    (0x9C, 96, "kp_enter"),
    (0x9D, 97, "ctrl_r"),
    (0xA0, 113, "audiomute"),
    (0xA1, 140, "calculator"),
    (0xA2, 164, "audioplay"),
    (0xA4, 166, "audiostop"),
    (0xAE, 114, "volumedown"),
    (0xB0, 115, "volumeup"),
    (0xB2, 172, "ac_home"),
    (0xB5, 98, "kp_divide"),
    (0xB7, 99, "print"),
    (0xB8, 100, "alt_r"),
    (0xC6, 119, "pause"),
    (0xC7, 102, "home"),
    (0xC8, 103, "up"),
    (0xC9, 104, "pgup"),
    (0xCB, 105, "left"),
    (0xCD, 106, "right"),
    (0xCF, 107, "end"),
    (0xD0, 108, "down"),
    (0xD1, 109, "pgdn"),
    (0xD2, 110, "insert"),
    (0xD3, 111, "delete"),
    (0xDB, 125, "meta_l"),
    (0xDC, 126, "meta_r"),
    (0xDD, 127, "compose"),
    (0xDE, 116, "power"),
    (0xDF, 142, "sleep"),
    (0xE3, 143, "wake"),
    (0xE6, 156, "ac_bookmarks"),
    (0xE7, 173, "ac_refresh"),
    (0xE9, 159, "ac_forward"),
    (0xEA, 158, "ac_back"),
    (0xEB, 157, "computer"),
    (0xEC, 155, "mail"),
    (0xED, 226, "mediaselect"),
)

_BY_SCANCODE: Final = {index: (index, name) for index, name in enumerate(_FIRST_83.split(), start=1)} | {
    scancode: (linux, name) for scancode, linux, name in _LATER_KEYS
}

# Print Screen has two scancodes: 0x54 with Alt and 0xB7 alone. The later entry, 0xB7, wins.
_BY_QCODE: Final = {name: scancode for scancode, (_, name) in _BY_SCANCODE.items()} | {"sysrq": 0x54}

# Rows of a US keyboard: QEMU's names, the characters without Shift, the characters with Shift.
_US_ROWS: Final = (
    ("grave_accent 1 2 3 4 5 6 7 8 9 0 minus equal", "`1234567890-=", "~!@#$%^&*()_+"),
    ("q w e r t y u i o p bracket_left bracket_right backslash", "qwertyuiop[]\\", "QWERTYUIOP{}|"),
    ("a s d f g h j k l semicolon apostrophe", "asdfghjkl;'", 'ASDFGHJKL:"'),
    ("z x c v b n m comma dot slash", "zxcvbnm,./", "ZXCVBNM<>?"),
)

_QCODES: Final = {
    0xFF08: "backspace",
    0xFF09: "tab",
    LEFT_TAB: "tab",
    0xFF0D: "ret",
    0xFF13: "pause",
    0xFF14: "scroll_lock",
    0xFF15: "sysrq",
    0xFF1B: "esc",
    0xFF22: "muhenkan",
    0xFF23: "henkan",
    0xFF25: "hiragana",
    0xFF27: "katakanahiragana",
    0xFF31: "lang1",
    0xFF34: "lang2",
    0xFF50: "home",
    0xFF51: "left",
    0xFF52: "up",
    0xFF53: "right",
    0xFF54: "down",
    0xFF55: "pgup",
    0xFF56: "pgdn",
    0xFF57: "end",
    0xFF61: "print",
    0xFF63: "insert",
    0xFF67: "compose",
    0xFF6B: "pause",
    0xFF7E: "alt_r",
    0xFF7F: "num_lock",
    0xFFE1: "shift",
    0xFFE2: "shift_r",
    0xFFE3: "ctrl",
    0xFFE4: "ctrl_r",
    0xFFE5: "caps_lock",
    0xFFE7: "meta_l",
    0xFFE8: "meta_r",
    0xFFE9: "alt",
    0xFFEA: "alt_r",
    0xFFEB: "meta_l",
    0xFFEC: "meta_r",
    0xFE03: "alt_r",
    0xFFFF: "delete",
    0x1008FF11: "volumedown",
    0x1008FF12: "audiomute",
    0x1008FF13: "volumeup",
    0x1008FF14: "audioplay",
    0x1008FF15: "audiostop",
    0x1008FF16: "audioprev",
    0x1008FF17: "audionext",
    0x1008FF18: "ac_home",
    0x1008FF19: "mail",
    0x1008FF1D: "calculator",
    0x1008FF26: "ac_back",
    0x1008FF27: "ac_forward",
    0x1008FF29: "ac_refresh",
    0x1008FF2A: "power",
    0x1008FF2B: "wake",
    0x1008FF2F: "sleep",
    0x1008FF30: "ac_bookmarks",
    0x1008FF32: "mediaselect",
    0x1008FF33: "computer",
} | {0xFFBE + index: f"f{index + 1}" for index in range(12)}

# Keysyms of the keypad: without Num Lock, with Num Lock, and those that Num Lock does not change.
_KEYPAD_MOVES: Final = {
    0xFF95: "7",
    0xFF96: "4",
    0xFF97: "8",
    0xFF98: "6",
    0xFF99: "2",
    0xFF9A: "9",
    0xFF9B: "3",
    0xFF9C: "1",
    0xFF9D: "5",
    0xFF9E: "0",
    0xFF9F: "decimal",
}
_KEYPAD_TYPES: Final = {0xFFB0 + digit: str(digit) for digit in range(10)} | {0xFFAE: "decimal"}
_KEYPAD_OTHERS: Final = {
    0xFF80: "spc",
    0xFF89: "tab",
    0xFF8D: "kp_enter",
    0xFFAA: "kp_multiply",
    0xFFAB: "kp_add",
    0xFFAC: "kp_comma",
    0xFFAD: "kp_subtract",
    0xFFAF: "kp_divide",
    0xFFBD: "kp_equals",
}


def _us_keysyms() -> dict[int, QemuKey]:
    """Return the key for every keysym that a US keyboard can send."""
    table = {keysym: QemuKey(name) for keysym, name in (_QCODES | _KEYPAD_OTHERS).items()}
    for names, plain, shifted in _US_ROWS:
        for name, low, high in zip(names.split(), plain, shifted, strict=True):
            table[ord(low)] = QemuKey(name, shift=False)
            table[ord(high)] = QemuKey(name, shift=True)
    table[ord(" ")] = QemuKey("spc")
    table |= {keysym: QemuKey(f"kp_{key}", num_lock=False) for keysym, key in _KEYPAD_MOVES.items()}
    table |= {keysym: QemuKey(f"kp_{key}", num_lock=True) for keysym, key in _KEYPAD_TYPES.items()}
    return table


_BY_KEYSYM: Final = _us_keysyms()


def qemu_key_of_keysym(keysym: int) -> QemuKey | None:
    """Return the key of a US keyboard that sends a keysym; None if there is no such key.

    Args:
        keysym: X11 keysym. May be the Unicode keysym of a character that has a legacy one.
    """
    found = _BY_KEYSYM.get(keysym)
    if found is None and keysym > UNICODE_BASE:
        char = char_of_keysym(keysym)
        found = _BY_KEYSYM.get(ord(char)) if char is not None and ord(char) < 0x100 else None
    return found


def qcode_of_scancode(scancode: int) -> str | None:
    """Return QEMU's name of the key with an XT scancode (0x80 added for the prefix 0xE0); None if unknown."""
    found = _BY_SCANCODE.get(scancode)
    return found[1] if found else None


def scancode_of_qcode(qcode: str) -> int | None:
    """Return the XT scancode (0x80 added for the prefix 0xE0) of a key by QEMU's name; None if unknown."""
    return _BY_QCODE.get(qcode)


def evdev_of_scancode(scancode: int) -> int | None:
    """Return Linux's code (`KEY_*`) of the key with an XT scancode; None if unknown."""
    found = _BY_SCANCODE.get(scancode)
    return found[0] if found else None


def x11_keycode_of_scancode(scancode: int) -> int | None:
    """Return the keycode that an X server on Linux gives the key with an XT scancode; None if unknown."""
    code = evdev_of_scancode(scancode)
    return None if code is None else code + X11_MIN_KEYCODE
