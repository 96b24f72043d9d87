"""What a damage says about itself."""

from __future__ import annotations

from vramtap.display.damage import Damage, Move
from vramtap.display.region import Rect


def test_nothing_changed_is_false() -> None:
    damage = Damage(640, 480, pages=3)
    assert not damage
    assert damage.area == 0
    assert damage.bounding_box is None


def test_a_change_and_a_new_size_are_true() -> None:
    damage = Damage(640, 480, (Rect(0, 0, 10, 2), Rect(20, 5, 4, 4)))
    assert damage
    assert damage.area == 36
    assert damage.bounding_box == Rect(0, 0, 24, 9)
    assert Damage(0, 0, resized=True)


def test_a_move_knows_where_it_went() -> None:
    move = Move(Rect(8, 32, 100, 40), 4, 16)
    assert move.destination == Rect(4, 16, 100, 40)
    assert (move.right, move.down) == (-4, -16)
