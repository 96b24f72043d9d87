"""The pixels of the guest's screen, and the texts on it, read with the guest's own font."""

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
    """Return the glyph of each printable character, shape `(HEIGHT, WIDTH)`."""
    found = {
        name[-1]: np.unpackbits(
            np.array([int(row, 16) for row in rows.split(",")], np.uint8)[:, None], axis=1
        )
        for name, rows in _GLYPH.findall(FONT.read_text())
    }
    assert sorted(found) == [chr(code) for code in range(0x20, 0x7F)]
    return {name: glyph.astype(bool) for name, glyph in found.items()}


def pixels(machine: Machine) -> NDArray[np.uint32]:
    """Return a copy of the visible pixels, shape `(height, width)`."""
    words = machine.dispi.words()
    first = words[Y_OFFSET] * words[VIRT_WIDTH]
    lines = machine.memory.vram.view(np.uint32)[first : first + words[YRES] * words[VIRT_WIDTH]]
    left = words[X_OFFSET]
    return lines.reshape(words[YRES], words[VIRT_WIDTH])[:, left : left + words[XRES]].copy()


def find(machine: Machine, text: str, ink: int) -> tuple[int, int] | None:
    """Return the upper left corner `(x, y)` of a text in this colour; None if the screen has no such text."""
    return locate(pixels(machine), text, ink)


def locate(picture: NDArray[np.uint32], text: str, ink: int) -> tuple[int, int] | None:
    """Return the same as `find` for a picture of shape `(height, width)`, `0x00RRGGBB`."""
    shape = np.concatenate([font()[character] for character in text], axis=1)
    drawn = picture == ink
    # The text's first row that is not empty fits few places; only these are compared as a whole.
    row = int(shape.any(axis=1).argmax())
    windows = sliding_window_view(drawn, shape.shape[1], axis=1)[row : row + drawn.shape[0] - HEIGHT + 1]
    places = [
        (int(x), int(y))
        for y, x in np.argwhere((windows == shape[row]).all(axis=2))
        if np.array_equal(drawn[y : y + HEIGHT, x : x + shape.shape[1]], shape)
    ]
    assert len(places) <= 1, f"{text!r} is at {places}"
    return places[0] if places else None


def read(machine: Machine, x: int, y: int, characters: int, ink: int) -> str:
    """Return the text at a place, with `?` for pixels that are no character."""
    drawn = pixels(machine) == ink
    names = {glyph.tobytes(): name for name, glyph in font().items()}
    cells = (drawn[y : y + HEIGHT, at : at + WIDTH] for at in range(x, x + characters * WIDTH, WIDTH))
    return "".join(names.get(cell.tobytes(), "?") for cell in cells)
