"""Search of the key that sends a keysym, and of the state of Shift that it needs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramtap.targets.x11.keymap import CONTROL, LOCK, MOD1, SHIFT, Key, Keymap, Stroke

NUM = 1 << 4
KP_HOME, KP_7, KP_ENTER = 0xFF95, 0xFFB7, 0xFF8D
SHIFT_L, SHIFT_R, NUM_LOCK, TAB, LEFT_TAB, LEFT = 0xFFE1, 0xFFE2, 0xFF7F, 0xFF09, 0xFE20, 0xFF51

ROWS = {
    8: [0, 0],
    9: [ord("a"), ord("A")],
    10: [ord("1"), ord("!")],
    11: [ord(" "), 0],
    12: [TAB, LEFT_TAB],
    13: [SHIFT_R, 0],
    14: [SHIFT_L, 0],
    15: [NUM_LOCK, 0],
    16: [KP_HOME, KP_7],
    17: [ord("<"), ord(">")],
    18: [ord(","), ord("<")],
    19: [0x1B1, 0x1A1],  # a letter by its legacy keysym
    20: [LEFT, LEFT],
    21: [0, 0],
    22: [0, 0xFFE7],
    23: [KP_ENTER, 0],
    24: [ord("5")],
}
MODIFIERS = [[13, 14], [0, 0], [0, 0], [0, 0], [15, 21], [0, 0], [0, 0], [0, 0]]
KEYMAP = Keymap(8, [ROWS[keycode] for keycode in sorted(ROWS)], MODIFIERS)


def plain(keycode: int) -> Key:
    return Key(keycode, shifted=False)


def shifted(keycode: int) -> Key:
    return Key(keycode, shifted=True)


def with_shift(keycode: int) -> Stroke:
    return Stroke(keycode, shift=True)


def without_shift(keycode: int) -> Stroke:
    return Stroke(keycode, shift=False)


@pytest.mark.parametrize(
    ("keysym", "prefer", "key"),
    [
        (ord("a"), None, plain(9)),
        (ord("A"), None, shifted(9)),
        (ord("<"), None, plain(17)),
        (ord("<"), 18, shifted(18)),
        (ord("<"), 9, plain(17)),
        (0x1000105, None, plain(19)),
        (0x1000104, None, shifted(19)),
        (0xFFE7, None, shifted(22)),
        (KP_7, None, shifted(16)),
        (ord("7"), None, None),
        (ord("b"), None, None),
        (0, None, None),
    ],
)
def test_find_returns_the_key_that_sends_a_keysym(keysym: int, prefer: int | None, key: Key | None) -> None:
    assert KEYMAP.find(keysym, prefer) == key


def test_spare_keys_send_no_keysym_and_set_no_modifier() -> None:
    assert KEYMAP.spare() == [8], "21 sends no keysym, but sets a modifier"


def test_has_tells_keys_that_are_on_the_map() -> None:
    assert KEYMAP.has(9)
    assert KEYMAP.has(22)
    assert not any(KEYMAP.has(keycode) for keycode in (0, 7, 8, 21, 25, 1000, -1))


def test_shift_keys_lists_the_left_key_first() -> None:
    assert KEYMAP.shift_keys() == [14, 13]
    assert Keymap(8, [], []).shift_keys() == []


@pytest.mark.parametrize(
    ("keysym", "state", "stroke"),
    [
        (ord("a"), 0, Stroke(9)),
        (ord("A"), SHIFT, Stroke(9)),
        (ord("A"), 0, with_shift(9)),
        (ord("a"), SHIFT, without_shift(9)),
        (ord("A"), LOCK, Stroke(9)),
        (ord("a"), LOCK, with_shift(9)),
        (ord("A"), LOCK | SHIFT, without_shift(9)),
        (ord("a"), LOCK | SHIFT, Stroke(9)),
        (ord("!"), LOCK, with_shift(10)),
        (ord("1"), LOCK, Stroke(10)),
        (ord(" "), SHIFT, Stroke(11)),
        (ord("5"), SHIFT, Stroke(24)),
        (0x1000104, 0, with_shift(19)),
        # Shortcuts keep the modifiers that are held.
        (ord("C") + 0x20 - 2, CONTROL | SHIFT, Stroke(9)),
        (ord("A"), CONTROL, Stroke(9)),
        (ord("1"), MOD1 | SHIFT, Stroke(10)),
        (ord("!"), MOD1, with_shift(10)),
        # Keys that type no character keep Shift.
        (TAB, SHIFT, Stroke(12)),
        (LEFT_TAB, SHIFT, Stroke(12)),
        (LEFT_TAB, 0, with_shift(12)),
        (LEFT, SHIFT, Stroke(20)),
        (SHIFT_L, SHIFT, Stroke(14)),
        (0xFFE7, 0, Stroke(22)),
        # The keypad follows Num Lock, whatever Shift is.
        (KP_7, NUM, Stroke(16)),
        (KP_7, 0, None),
        (KP_7, SHIFT, None),
        (KP_HOME, 0, Stroke(16)),
        (KP_HOME, SHIFT, Stroke(16)),
        (KP_HOME, NUM, None),
        (KP_ENTER, NUM, Stroke(23)),
        (ord("b"), 0, None),
    ],
)
def test_plan_presses_or_releases_shift_as_needed(keysym: int, state: int, stroke: Stroke | None) -> None:
    assert KEYMAP.plan(keysym, state) == stroke


@given(
    st.integers(0, 255),
    st.lists(
        st.lists(st.integers(0, 0xFFFFFFFF) | st.sampled_from([0x61, 0x41, KP_7, NUM_LOCK]), max_size=7),
        max_size=9,
    ),
    st.lists(st.lists(st.integers(0, 255), max_size=4), max_size=9),
    st.integers(0, 0xFFFFFFFF) | st.sampled_from([0x61, 0x41, KP_7, NUM_LOCK]),
    st.integers(0, 0x1FFF),
)
def test_any_map_gives_keys_that_are_on_it(
    first: int, rows: list[list[int]], modifiers: list[list[int]], keysym: int, state: int
) -> None:
    keymap = Keymap(first, rows, modifiers)
    stroke = keymap.plan(keysym, state)
    assert stroke is None or keymap.has(stroke.keycode)
    assert not any(keymap.has(keycode) for keycode in keymap.spare())
    assert set(keymap.shift_keys()) <= {keycode for row in modifiers for keycode in row}
