"""The lines of `vramtap watch`."""

from __future__ import annotations

import json
import re

from vramtap.cli.watch import _json_line, _line
from vramtap.display.damage import Damage
from vramtap.display.region import Rect

DAMAGE = Damage(640, 480, (Rect(0, 0, 16, 16), Rect(100, 200, 30, 40)), pages=7)
RESIZED = Damage(800, 600, (Rect(0, 0, 800, 600),), resized=True, pages=500)


def test_line_has_time_pages_pixels_and_rectangles() -> None:
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d\.\d{3}     7 pages     1456 pixels  16x16\+0\+0 30x40\+100\+200", _line(DAMAGE)
    )


def test_line_has_a_new_size() -> None:
    assert " now 800x600  800x600+0+0" in _line(RESIZED)


def test_json_line_has_every_field() -> None:
    said = json.loads(_json_line(DAMAGE))
    assert said.pop("time_s") > 0
    assert said == {
        "pages": 7,
        "pixels": 1456,
        "resized": False,
        "width": 640,
        "height": 480,
        "rects": [[0, 0, 16, 16], [100, 200, 30, 40]],
    }
    assert json.loads(_json_line(RESIZED))["resized"] is True
