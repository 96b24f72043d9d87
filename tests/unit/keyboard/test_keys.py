"""The tables of keys."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramtap.keyboard import keys
from vramtap.keyboard.keys import QemuKey
from vramtap.keyboard.keysyms import keysym_of_char


@pytest.mark.parametrize(
    ("scancode", "linux", "qcode"),
    [
        (0x01, 1, "esc"),
        (0x1E, 30, "a"),
        (0x29, 41, "grave_accent"),
        (0x53, 83, "kp_decimal"),
        (0x54, 99, "print"),
        (0x56, 86, "less"),
        (0x57, 87, "f11"),
        (0x9C, 96, "kp_enter"),
        (0xB8, 100, "alt_r"),
        (0xC6, 119, "pause"),
        (0xC8, 103, "up"),
        (0xDB, 125, "meta_l"),
    ],
)
def test_a_scancode_has_a_linux_code_and_a_name(scancode: int, linux: int, qcode: str) -> None:
    assert keys.evdev_of_scancode(scancode) == linux
    assert keys.x11_keycode_of_scancode(scancode) == linux + 8
    assert keys.qcode_of_scancode(scancode) == qcode


@pytest.mark.parametrize("scancode", [0, 0x55, 0x5A, 0x80, 0xFF, 0x100, 0xFFFFFFFF])
def test_an_unknown_scancode_has_no_key(scancode: int) -> None:
    assert keys.evdev_of_scancode(scancode) is None
    assert keys.x11_keycode_of_scancode(scancode) is None
    assert keys.qcode_of_scancode(scancode) is None


def test_every_printable_ascii_character_has_a_key_and_a_shift_state() -> None:
    for char in string.printable[:95]:
        key = keys.qemu_key_of_keysym(keysym_of_char(char))
        assert key is not None, char
        assert (key.shift is None) == (char == " "), char


@pytest.mark.parametrize(
    ("keysym", "key"),
    [
        (0x61, QemuKey("a", shift=False)),
        (0x41, QemuKey("a", shift=True)),
        (0x3F, QemuKey("slash", shift=True)),
        (0x3C, QemuKey("comma", shift=True)),
        (0x7C, QemuKey("backslash", shift=True)),
        (0xFF0D, QemuKey("ret")),
        (0xFE20, QemuKey("tab")),
        (0xFFC9, QemuKey("f12")),
        (0xFFB1, QemuKey("kp_1", num_lock=True)),
        (0xFF9C, QemuKey("kp_1", num_lock=False)),
        (0x1000041, QemuKey("a", shift=True)),
    ],
)
def test_a_keysym_has_a_key(keysym: int, key: QemuKey) -> None:
    assert keys.qemu_key_of_keysym(keysym) == key


@pytest.mark.parametrize("keysym", [0, 0xE9, 0x10000E9, 0x1000105, 0x100007F, 0xFFFFFFFF])
def test_a_keysym_that_a_us_keyboard_lacks_has_no_key(keysym: int) -> None:
    assert keys.qemu_key_of_keysym(keysym) is None


@given(st.integers(0, 0xFFFFFFFF))
def test_any_number_from_a_client_is_a_key_or_none(number: int) -> None:
    key = keys.qemu_key_of_keysym(number)
    assert key is None or key.qcode
    assert keys.qcode_of_scancode(number) is None or number < 0x100
