"""Tests of Damage and Move."""

from __future__ import annotations

from vramtap.display.damage import Damage, Move
from vramtap.display.region import Rect


def test_empty_damage_is_false() -> None:
    damage = Damage(640, 480, pages=3)
    assert not damage
    assert damage.area == 0
    assert damage.bounding_box is None


def test_changed_pixels_or_a_new_size_are_true() -> None:
    damage = Damage(640, 480, (Rect(0, 0, 10, 2), Rect(20, 5, 4, 4)))
    assert damage
    assert damage.area == 36
    assert damage.bounding_box == Rect(0, 0, 24, 9)
    assert Damage(0, 0, resized=True)


def test_move_computes_destination_and_distance() -> None:
    move = Move(Rect(8, 32, 100, 40), 4, 16)
    assert move.destination == Rect(4, 16, 100, 40)
    assert (move.right, move.down) == (-4, -16)
