"""Strokes of a US keyboard for a client's key events."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vramtap.keyboard.events import KeyEvent
from vramtap.keyboard.keys import qcode_of_scancode, scancode_of_qcode
from vramtap.keyboard.us_layout import Stroke, UsKeyboard

SHIFT_L, CAPS_LOCK = 0xFFE1, 0xFFE5


def named(strokes: list[Stroke]) -> list[tuple[str, bool]]:
    """Return pairs of QEMU's name and whether the key goes down."""
    return [(stroke.qcode, stroke.down) for stroke in strokes]


def typed(keyboard: UsKeyboard, keysym: int, scancode: int = 0) -> list[tuple[str, bool]]:
    """Press and release a key; return the strokes."""
    down = keyboard.strokes(KeyEvent(keysym=keysym, down=True, scancode=scancode))
    return named(down + keyboard.strokes(KeyEvent(keysym=keysym, down=False, scancode=scancode)))


def test_shift_is_pressed_or_released_around_a_keysym() -> None:
    keyboard = UsKeyboard()
    assert typed(keyboard, ord("a")) == [("a", True), ("a", False)]
    assert typed(keyboard, ord("A")) == [("shift", True), ("a", True), ("shift", False), ("a", False)]
    assert named(keyboard.strokes(KeyEvent(keysym=SHIFT_L, down=True))) == [("shift", True)]
    assert typed(keyboard, ord("A")) == [("a", True), ("a", False)]
    assert typed(keyboard, ord("1")) == [("shift", False), ("1", True), ("shift", True), ("1", False)]
    assert named(keyboard.release_all()) == [("shift", False)]
    assert keyboard.release_all() == []


def test_caps_lock_changes_letters_only() -> None:
    keyboard = UsKeyboard()
    typed(keyboard, CAPS_LOCK)
    assert typed(keyboard, ord("A")) == [("a", True), ("a", False)]
    assert typed(keyboard, ord("!"))[:2] == [("shift", True), ("1", True)]


def test_a_known_scancode_decides_over_the_keysym() -> None:
    keyboard = UsKeyboard()
    assert typed(keyboard, ord("A"), 0x10) == [("q", True), ("q", False)]
    assert typed(keyboard, ord("a"), 0x7F) == [("a", True), ("a", False)], (
        "an unknown scancode: the keysym decides"
    )
    assert typed(keyboard, 0x01012345) == []


def test_a_key_pressed_in_two_ways_is_released_once() -> None:
    keyboard = UsKeyboard()
    keyboard.strokes(KeyEvent(keysym=ord("a"), down=True, scancode=0x1E))
    keyboard.strokes(KeyEvent(keysym=ord("a"), down=True))
    assert keyboard.strokes(KeyEvent(keysym=ord("a"), down=False)) == []
    assert named(keyboard.strokes(KeyEvent(keysym=ord("a"), down=False, scancode=0x1E))) == [("a", False)]


@given(
    st.lists(st.tuples(st.integers(0, 1 << 29) | st.integers(0x20, 0x7E), st.booleans(), st.integers(0, 255)))
)
def test_release_all_releases_every_held_key(events: list[tuple[int, bool, int]]) -> None:
    keyboard = UsKeyboard()
    held: set[str] = set()
    for keysym, down, scancode in events:
        for stroke in keyboard.strokes(KeyEvent(keysym=keysym, down=down, scancode=scancode)):
            (held.add if stroke.down else held.discard)(stroke.qcode)
    for stroke in keyboard.release_all():
        assert not stroke.down
        held.discard(stroke.qcode)
    assert held == set()


def test_a_stroke_carries_the_scancode_that_the_client_sent() -> None:
    keyboard = UsKeyboard()
    for scancode in (0x54, 0xB7):
        down = keyboard.strokes(KeyEvent(keysym=0, down=True, scancode=scancode))
        up = keyboard.strokes(KeyEvent(keysym=0, down=False, scancode=scancode))
        assert [stroke.scancode for stroke in down + up] == [scancode] * 2


def test_a_stroke_for_a_keysym_carries_the_scancode_of_its_key() -> None:
    keyboard = UsKeyboard()
    strokes = keyboard.strokes(KeyEvent(keysym=ord("A"), down=True)) + keyboard.release_all()
    assert [(stroke.scancode, stroke.down) for stroke in strokes] == [
        (0x2A, True),
        (0x1E, True),
        (0x2A, False),
        (0x1E, False),
    ]
    assert all(scancode_of_qcode(stroke.qcode) == stroke.scancode for stroke in strokes)


def test_qcodes_and_scancodes_are_inverse() -> None:
    for scancode in range(1, 256):
        code = qcode_of_scancode(scancode)
        if code is not None:
            # Only Print Screen has two scancodes: 0x54 with Alt, 0xB7 alone.
            assert scancode_of_qcode(code) == (0xB7 if scancode == 0x54 else scancode)
    assert scancode_of_qcode("sysrq") == 0x54
    assert scancode_of_qcode("any") is None
