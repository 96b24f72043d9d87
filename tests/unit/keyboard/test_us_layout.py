"""What goes down and up on a US keyboard for what a client sends."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vramtap.keyboard.events import KeyEvent
from vramtap.keyboard.keys import qcode_of_scancode, scancode_of_qcode
from vramtap.keyboard.us_layout import Stroke, UsKeyboard

SHIFT_L, CAPS_LOCK = 0xFFE1, 0xFFE5


def typed(keyboard: UsKeyboard, keysym: int, scancode: int = 0) -> list[Stroke]:
    """A key pressed and released."""
    down = keyboard.strokes(KeyEvent(keysym=keysym, down=True, scancode=scancode))
    return down + keyboard.strokes(KeyEvent(keysym=keysym, down=False, scancode=scancode))


def test_shift_is_pressed_or_let_go_around_a_keysym_that_needs_it() -> None:
    keyboard = UsKeyboard()
    assert typed(keyboard, ord("a")) == [("a", True), ("a", False)]
    assert typed(keyboard, ord("A")) == [("shift", True), ("a", True), ("shift", False), ("a", False)]
    assert keyboard.strokes(KeyEvent(keysym=SHIFT_L, down=True)) == [("shift", True)]
    assert typed(keyboard, ord("A")) == [("a", True), ("a", False)]
    assert typed(keyboard, ord("1")) == [("shift", False), ("1", True), ("shift", True), ("1", False)]
    assert keyboard.release_all() == [("shift", False)]
    assert keyboard.release_all() == []


def test_caps_lock_is_counted_for_letters_only() -> None:
    keyboard = UsKeyboard()
    typed(keyboard, CAPS_LOCK)
    assert typed(keyboard, ord("A")) == [("a", True), ("a", False)]
    assert typed(keyboard, ord("!"))[:2] == [("shift", True), ("1", True)]


def test_a_scancode_is_followed_to_the_letter() -> None:
    keyboard = UsKeyboard()
    assert typed(keyboard, ord("A"), 0x10) == [("q", True), ("q", False)]
    assert typed(keyboard, ord("a"), 0x7F) == [("a", True), ("a", False)], "one that is no key's: the keysym"
    assert typed(keyboard, 0x01012345) == []


def test_a_key_held_twice_goes_up_once() -> None:
    keyboard = UsKeyboard()
    keyboard.strokes(KeyEvent(keysym=ord("a"), down=True, scancode=0x1E))
    keyboard.strokes(KeyEvent(keysym=ord("a"), down=True))
    assert keyboard.strokes(KeyEvent(keysym=ord("a"), down=False)) == []
    assert keyboard.strokes(KeyEvent(keysym=ord("a"), down=False, scancode=0x1E)) == [("a", False)]


@given(
    st.lists(st.tuples(st.integers(0, 1 << 29) | st.integers(0x20, 0x7E), st.booleans(), st.integers(0, 255)))
)
def test_whatever_is_sent_every_key_can_be_let_go_of(events: list[tuple[int, bool, int]]) -> None:
    keyboard = UsKeyboard()
    held: set[str] = set()
    for keysym, down, scancode in events:
        for code, goes_down in keyboard.strokes(KeyEvent(keysym=keysym, down=down, scancode=scancode)):
            (held.add if goes_down else held.discard)(code)
    for code, goes_down in keyboard.release_all():
        assert not goes_down
        held.discard(code)
    assert held == set()


def test_names_and_scancodes_are_each_others_inverse() -> None:
    for scancode in range(1, 256):
        code = qcode_of_scancode(scancode)
        if code is not None:
            # Print Screen alone has two: the one with Alt is another.
            assert scancode_of_qcode(code) == (0xB7 if scancode == 0x54 else scancode)
    assert scancode_of_qcode("sysrq") == 0x54
    assert scancode_of_qcode("any") is None
