"""Which key of an X server's map sends a keysym."""

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
    19: [0x1B1, 0x1A1],  # a letter under its legacy name
    20: [LEFT, LEFT],
    21: [0, 0],
    22: [0, 0xFFE7],
    23: [KP_ENTER, 0],
    24: [ord("5")],
}
MODIFIERS = [[13, 14], [0, 0], [0, 0], [0, 0], [15, 21], [0, 0], [0, 0], [0, 0]]
KEYMAP = Keymap(8, [ROWS[keycode] for keycode in sorted(ROWS)], MODIFIERS)


@pytest.mark.parametrize(
    ("keysym", "prefer", "key"),
    [
        (ord("a"), None, Key(9, False)),
        (ord("A"), None, Key(9, True)),
        (ord("<"), None, Key(17, False)),
        (ord("<"), 18, Key(18, True)),
        (ord("<"), 9, Key(17, False)),
        (0x1000105, None, Key(19, False)),
        (0x1000104, None, Key(19, True)),
        (0xFFE7, None, Key(22, True)),
        (KP_7, None, Key(16, True)),
        (ord("7"), None, None),
        (ord("b"), None, None),
        (0, None, None),
    ],
)
def test_a_key_is_found(keysym: int, prefer: int | None, key: Key | None) -> None:
    assert KEYMAP.find(keysym, prefer) == key


def test_spare_keys_send_nothing_and_modify_nothing() -> None:
    assert KEYMAP.spare() == [8], "21 is empty, and a modifier"


def test_keys_are_on_the_map_or_not() -> None:
    assert KEYMAP.has(9)
    assert KEYMAP.has(22)
    assert not any(KEYMAP.has(keycode) for keycode in (0, 7, 8, 21, 25, 1000, -1))


def test_the_left_shift_comes_first() -> None:
    assert KEYMAP.shift_keys() == [14, 13]
    assert Keymap(8, [], []).shift_keys() == []


@pytest.mark.parametrize(
    ("keysym", "state", "stroke"),
    [
        (ord("a"), 0, Stroke(9)),
        (ord("A"), SHIFT, Stroke(9)),
        (ord("A"), 0, Stroke(9, True)),
        (ord("a"), SHIFT, Stroke(9, False)),
        (ord("A"), LOCK, Stroke(9)),
        (ord("a"), LOCK, Stroke(9, True)),
        (ord("A"), LOCK | SHIFT, Stroke(9, False)),
        (ord("a"), LOCK | SHIFT, Stroke(9)),
        (ord("!"), LOCK, Stroke(10, True)),
        (ord("1"), LOCK, Stroke(10)),
        (ord(" "), SHIFT, Stroke(11)),
        (ord("5"), SHIFT, Stroke(24)),
        (0x1000104, 0, Stroke(19, True)),
        # Shortcuts keep the modifiers that are held.
        (ord("C") + 0x20 - 2, CONTROL | SHIFT, Stroke(9)),
        (ord("A"), CONTROL, Stroke(9)),
        (ord("1"), MOD1 | SHIFT, Stroke(10)),
        (ord("!"), MOD1, Stroke(10, True)),
        # Keys that type nothing keep Shift.
        (TAB, SHIFT, Stroke(12)),
        (LEFT_TAB, SHIFT, Stroke(12)),
        (LEFT_TAB, 0, Stroke(12, True)),
        (LEFT, SHIFT, Stroke(20)),
        (SHIFT_L, SHIFT, Stroke(14)),
        (0xFFE7, 0, Stroke(22)),
        # The keypad follows Num Lock, whatever Shift does to it.
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
def test_shift_is_planned(keysym: int, state: int, stroke: Stroke | None) -> None:
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
def test_any_map_a_server_sends_is_bearable(
    first: int, rows: list[list[int]], modifiers: list[list[int]], keysym: int, state: int
) -> None:
    keymap = Keymap(first, rows, modifiers)
    stroke = keymap.plan(keysym, state)
    assert stroke is None or keymap.has(stroke.keycode)
    assert not any(keymap.has(keycode) for keycode in keymap.spare())
    assert set(keymap.shift_keys()) <= {keycode for row in modifiers for keycode in row}
