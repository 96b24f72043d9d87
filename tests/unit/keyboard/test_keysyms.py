"""Keysyms, their characters, and the names of keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramtap.errors import UsageError
from vramtap.keyboard import keysyms
from vramtap.keyboard.keys import qemu_key_of_keysym


@pytest.mark.parametrize(
    ("char", "keysym"),
    [
        ("a", 0x61),
        ("~", 0x7E),
        ("\u00e9", 0xE9),
        ("\u0105", 0x1000105),
        ("\u20ac", 0x10020AC),
        ("\U0001f600", 0x101F600),
        ("\n", 0xFF0D),
        ("\t", 0xFF09),
        ("\x1b", 0xFF1B),
        ("\b", 0xFF08),
    ],
)
def test_a_character_has_a_keysym(char: str, keysym: int) -> None:
    assert keysyms.keysym_of_char(char) == keysym


@pytest.mark.parametrize("char", ["", "ab", "\x00", "\x07", "\x85", "\ud800"])
def test_text_that_no_key_types_is_refused(char: str) -> None:
    with pytest.raises(UsageError, match=r"character"):
        keysyms.keysym_of_char(char)


@pytest.mark.parametrize(
    ("name", "keysym"),
    [
        ("ctrl", 0xFFE3),
        ("Control", 0xFFE3),
        ("alt", 0xFFE9),
        ("AltGr", 0xFE03),
        ("super", 0xFFEB),
        ("delete", 0xFFFF),
        ("Enter", 0xFF0D),
        ("esc", 0xFF1B),
        ("f1", 0xFFBE),
        ("F5", 0xFFC2),
        ("f12", 0xFFC9),
        ("up", 0xFF52),
        ("PageDown", 0xFF56),
        ("page_down", 0xFF56),
        ("page-down", 0xFF56),
        ("Print Screen", 0xFF61),
        ("kp_7", 0xFFB7),
        ("a", 0x61),
        ("A", 0x61),
        ("\u00c9", 0xE9),
        ("\u0130", 0x1000130),
        ("+", 0x2B),
        ("plus", 0x2B),
    ],
)
def test_a_key_name_has_a_keysym(name: str, keysym: int) -> None:
    assert keysyms.keysym_of_name(name) == keysym


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("delte", "delete"),
        ("ctlr", "ctrl"),
        ("f13", "f1"),
        ("xyzzy", "known names are"),
        ("", "known names are"),
    ],
)
def test_an_unknown_key_name_is_refused_with_similar_names(name: str, remedy: str) -> None:
    with pytest.raises(UsageError, match="is not the name of a key") as caught:
        keysyms.keysym_of_name(name)
    assert remedy in caught.value.remedy


def test_every_named_key_is_on_a_us_keyboard() -> None:
    for name, keysym in keysyms._NAMES.items():
        assert qemu_key_of_keysym(keysym) is not None, name


@given(st.characters(exclude_categories=("Cs", "Cc")))
def test_keysym_of_a_character_gives_the_character_back(char: str) -> None:
    assert keysyms.char_of_keysym(keysyms.keysym_of_char(char)) == char


# From Xorg's keysymdef.h: one keysym of each legacy set, and keysyms that deviate from the set's standard.
@pytest.mark.parametrize(
    ("keysym", "char"),
    [
        (0x1B1, "\u0105"),  # aogonek, Latin 2
        (0x2A1, "\u0126"),  # Hstroke, Latin 3
        (0x3A2, "\u0138"),  # kra, Latin 4
        (0x5C7, "\u0627"),  # Arabic_alef
        (0x6C1, "\u0430"),  # Cyrillic_a
        (0x6E1, "\u0410"),  # Cyrillic_A
        (0x6A3, "\u0451"),  # Cyrillic_io
        (0x6A4, "\u0454"),  # Ukrainian_ie
        (0x6B0, "\u2116"),  # numerosign
        (0x6BF, "\u040f"),  # Cyrillic_DZHE
        (0x7E1, "\u03b1"),  # Greek_alpha
        (0x7B1, "\u03ac"),  # Greek_alphaaccent
        (0x7AE, "\u0385"),  # Greek_accentdieresis
        (0x7F2, "\u03c3"),  # Greek_sigma
        (0x7F3, "\u03c2"),  # Greek_finalsmallsigma
        (0xCE0, "\u05d0"),  # hebrew_aleph
        (0xDA1, "\u0e01"),  # Thai_kokai
        (0x13BD, "\u0153"),  # oe
        (0x20AC, "\u20ac"),  # EuroSign
        (0xFFB7, "7"),  # KP_7
        (0xFFAF, "/"),  # KP_Divide
        (0x1000041, "A"),
    ],
)
def test_legacy_keysym_types_its_character(keysym: int, char: str) -> None:
    assert keysyms.char_of_keysym(keysym) == char


@pytest.mark.parametrize(
    "keysym", [0, 0x1F, 0x7F, 0x80, 0xFF0D, 0xFFE1, 0x600, 0xDFF, 0x1000085, 0x100D800, 0x1110000]
)
def test_other_keysyms_type_no_character(keysym: int) -> None:
    assert keysyms.char_of_keysym(keysym) is None


@given(st.integers(0, 0xFFFFFFFF))
def test_any_number_is_a_character_or_none(keysym: int) -> None:
    char = keysyms.char_of_keysym(keysym)
    assert char is None or len(char) == 1


def test_same_key_compares_characters_but_not_keypad_keys() -> None:
    assert keysyms.same_key(0x1B1, 0x1000105)
    assert keysyms.same_key(0xFF0D, 0xFF0D)
    assert not keysyms.same_key(0x61, 0x41)
    assert not keysyms.same_key(0xFFB1, 0x31), "the keypad's 1 is not the 1 of the main block"
    assert not keysyms.same_key(0xFF08, 0xFF09), "keys that type no character differ"


def test_is_modifier() -> None:
    assert keysyms.is_modifier(0xFFE1)
    assert keysyms.is_modifier(0xFE03)
    assert keysyms.is_modifier(keysyms.NUM_LOCK)
    assert not keysyms.is_modifier(keysyms.LEFT_TAB)
    assert not keysyms.is_modifier(0x61)
