"""What a person sees on the guest's screen: its pixels, and where a text stands, by the guest's own font."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from vramtap.machine.devices.dispi import VIRT_WIDTH, X_OFFSET, XRES, Y_OFFSET, YRES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vramtap.machine.machine import Machine

FONT: Final = Path(__file__).parents[2] / "src/vramtap/machine/guest/font.c"
WIDTH: Final = 8
HEIGHT: Final = 16
CONSOLE_INK: Final = 0xD5E1EA
TITLE_INK: Final = 0xE6EDF2
BAR_INK: Final = 0xB9C7D2
POINTER_OUTLINE: Final = 0x05080B
_GLYPH: Final = re.compile(r"\['(\\?.)' - ' '\] = \{([^}]*)\}")


@cache
def font() -> dict[str, NDArray[np.bool_]]:
    """Each printable character, shape `(HEIGHT, WIDTH)`."""
    found = {
        name[-1]: np.unpackbits(
            np.array([int(row, 16) for row in rows.split(",")], np.uint8)[:, None], axis=1
        )
        for name, rows in _GLYPH.findall(FONT.read_text())
    }
    assert sorted(found) == [chr(code) for code in range(0x20, 0x7F)]
    return {name: glyph.astype(bool) for name, glyph in found.items()}


def pixels(machine: Machine) -> NDArray[np.uint32]:
    """A copy of what is shown, shape `(height, width)`."""
    words = machine.dispi.words()
    first = words[Y_OFFSET] * words[VIRT_WIDTH]
    lines = machine.memory.vram.view(np.uint32)[first : first + words[YRES] * words[VIRT_WIDTH]]
    left = words[X_OFFSET]
    return lines.reshape(words[YRES], words[VIRT_WIDTH])[:, left : left + words[XRES]].copy()


def find(machine: Machine, text: str, ink: int) -> tuple[int, int] | None:
    """Left upper corner `(x, y)` of the only place where a text stands in this colour; None if nowhere."""
    return locate(pixels(machine), text, ink)


def locate(picture: NDArray[np.uint32], text: str, ink: int) -> tuple[int, int] | None:
    """The same in a picture, shape `(height, width)`, `0x00RRGGBB`."""
    shape = np.concatenate([font()[character] for character in text], axis=1)
    drawn = picture == ink
    # Where the first row with anything in it fits: few places, looked at as a whole.
    row = int(shape.any(axis=1).argmax())
    windows = sliding_window_view(drawn, shape.shape[1], axis=1)[row : row + drawn.shape[0] - HEIGHT + 1]
    places = [
        (int(x), int(y))
        for y, x in np.argwhere((windows == shape[row]).all(axis=2))
        if np.array_equal(drawn[y : y + HEIGHT, x : x + shape.shape[1]], shape)
    ]
    assert len(places) <= 1, f"{text!r} stands at {places}"
    return places[0] if places else None


def read(machine: Machine, x: int, y: int, characters: int, ink: int) -> str:
    """The text at a place; `?` where no character looks like that."""
    drawn = pixels(machine) == ink
    names = {glyph.tobytes(): name for name, glyph in font().items()}
    cells = (drawn[y : y + HEIGHT, at : at + WIDTH] for at in range(x, x + characters * WIDTH, WIDTH))
    return "".join(names.get(cell.tobytes(), "?") for cell in cells)
