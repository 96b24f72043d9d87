"""Keysyms and characters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramtap.keyboard import keysyms


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
    assert keysyms.char_to_keysym(char) == keysym


@pytest.mark.parametrize("char", ["", "ab", "\x00", "\x07", "\x85", "\ud800"])
def test_what_no_key_types_is_refused(char: str) -> None:
    with pytest.raises(ValueError, match=r"character|no key"):
        keysyms.char_to_keysym(char)


@given(st.characters(exclude_categories=("Cs", "Cc")))
def test_characters_come_back_from_their_keysyms(char: str) -> None:
    assert keysyms.keysym_to_char(keysyms.char_to_keysym(char)) == char


# From Xorg's keysymdef.h: one of each legacy set, and the places where a set leaves its standard.
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
def test_legacy_keysyms_are_understood(keysym: int, char: str) -> None:
    assert keysyms.keysym_to_char(keysym) == char


@pytest.mark.parametrize(
    "keysym", [0, 0x1F, 0x7F, 0x80, 0xFF0D, 0xFFE1, 0x600, 0xDFF, 0x1000085, 0x100D800, 0x1110000]
)
def test_other_keysyms_type_nothing(keysym: int) -> None:
    assert keysyms.keysym_to_char(keysym) is None


@given(st.integers(0, 0xFFFFFFFF))
def test_any_number_a_client_sends_is_a_character_or_none(keysym: int) -> None:
    char = keysyms.keysym_to_char(keysym)
    assert char is None or len(char) == 1


def test_names_of_one_key() -> None:
    assert keysyms.same_key(0x1B1, 0x1000105)
    assert keysyms.same_key(0xFF0D, 0xFF0D)
    assert not keysyms.same_key(0x61, 0x41)
    assert not keysyms.same_key(0xFFB1, 0x31), "the keypad's 1 is another key"
    assert not keysyms.same_key(0xFF08, 0xFF09), "keys that type nothing are not alike"


def test_modifiers_are_known() -> None:
    assert keysyms.is_modifier(0xFFE1)
    assert keysyms.is_modifier(0xFE03)
    assert keysyms.is_modifier(keysyms.NUM_LOCK)
    assert not keysyms.is_modifier(keysyms.LEFT_TAB)
    assert not keysyms.is_modifier(0x61)
