"""Whether an `x11:` target announces its mode, by depth and by the place of the colour map."""

from __future__ import annotations

import pytest

from vramtap.display.mode import PixelFormat
from vramtap.targets.url import parse
from vramtap.targets.x11.framebuffer_search import Candidate
from vramtap.targets.x11.target import X11Target
from vramtap.targets.x11.verify import RootFormat
from vramtap.targets.x11.xwd import XwdHeader

COLORS_AT = 160
PIXELS_AT = COLORS_AT + 256 * 12


def target_with(form: PixelFormat, *, fixed_colors: bool, address: int) -> X11Target:
    """Return a target that has found its framebuffer."""
    target = X11Target(parse("x11::99"))
    target._format = RootFormat(8, 8, (0, 0, 0), form, fixed_colors=fixed_colors)
    header = XwdHeader(COLORS_AT, 8, 64, 48, 8, 64, 256, b"Xvfb :99.0")
    assert header.pixels_offset == PIXELS_AT
    target._framebuffer = Candidate(address=address, header=header, where="[heap]")
    return target


@pytest.mark.parametrize("address", [0x7000, 0x7010, 0x8000 - PIXELS_AT - 1, 0x8000 - COLORS_AT])
def test_a_colour_map_in_the_page_of_the_first_pixel_is_announced(address: int) -> None:
    assert target_with(PixelFormat.C8, fixed_colors=False, address=address)._announces_mode()


@pytest.mark.parametrize("address", [0x8000 - PIXELS_AT, 0x8000 - COLORS_AT - 1])
def test_a_colour_map_in_an_earlier_page_is_not_announced(address: int) -> None:
    assert not target_with(PixelFormat.C8, fixed_colors=False, address=address)._announces_mode()


@pytest.mark.parametrize(("form", "fixed"), [(PixelFormat.C8, True), (PixelFormat.XR24, True)])
def test_a_mode_without_changing_colours_is_announced(form: PixelFormat, *, fixed: bool) -> None:
    assert target_with(form, fixed_colors=fixed, address=0x8000 - PIXELS_AT)._announces_mode()
