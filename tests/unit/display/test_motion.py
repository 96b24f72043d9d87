"""Tests of find_move: every reported move is exact, and scrolls are found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vramtap.display.changes import ChangeFinder
from vramtap.display.motion import find_move
from vramtap.display.region import Rect

if TYPE_CHECKING:
    from vramtap.display.damage import Move

Pixels = NDArray[np.uint32]
COLUMNS = 8
ROWS = 16
WORDS = ["boot:", "[ 1.234567]", "usb", "1-1", "new", "device,", "eth0:", "link", "up", "ok"]


def found(old: Pixels, new: Pixels) -> Move | None:
    height, width = old.shape
    rects = tuple(ChangeFinder(width, height).find(old, new, [(0, height)]))
    move = find_move(old, new, rects)
    if move is not None:
        screen = Rect(0, 0, width, height)
        assert screen.contains(move.source)
        assert screen.contains(move.destination)
        assert move.source.area > 0
        assert (move.right, move.down) != (0, 0)
        assert np.array_equal(new[move.destination.slices], old[move.source.slices])
    return move


class Console:
    """Text in a random 8x16 font."""

    def __init__(self, seed: int = 1) -> None:
        self.random = np.random.default_rng(seed)
        self.glyphs = (self.random.random((128, ROWS, COLUMNS)) < 0.3).astype(np.uint32) * 0xAAAAAA
        self.glyphs[ord(" ")] = 0
        self.lines: list[str] = []

    def line(self) -> str:
        count = int(self.random.integers(1, 14))
        return " ".join(WORDS[at] for at in self.random.integers(0, len(WORDS), count))

    def page(self, first: int, width: int, height: int) -> Pixels:
        """Return a page of the log that starts at line `first`."""
        while len(self.lines) < first + height // ROWS:
            self.lines.append(self.line())
        pixels = np.zeros((height, width), dtype=np.uint32)
        for row, text in enumerate(self.lines[first : first + height // ROWS]):
            for column, character in enumerate(text[: width // COLUMNS]):
                pixels[row * ROWS : (row + 1) * ROWS, column * COLUMNS : (column + 1) * COLUMNS] = (
                    self.glyphs[ord(character)]
                )
        return pixels


@pytest.mark.parametrize("lines", [1, 2, 5, 20])
def test_a_scrolling_console_gives_one_move(lines: int) -> None:
    console = Console()
    move = found(console.page(0, 1024, 768), console.page(lines, 1024, 768))
    assert move is not None
    assert (move.right, move.down) == (0, -16 * lines)
    assert move.destination.y == 0
    assert move.destination.bottom == 768 - 16 * lines
    # The move is only as wide as the damage. The rest is black before and after.
    assert move.source.width >= 400


def test_a_console_that_scrolls_back_gives_one_move() -> None:
    console = Console()
    move = found(console.page(3, 1024, 768), console.page(0, 1024, 768))
    assert move is not None
    assert (move.right, move.down) == (0, 48)
    assert (move.destination.y, move.destination.bottom) == (48, 768)


def test_a_scrolling_window_next_to_a_changing_clock_is_found() -> None:
    console = Console()

    def desktop(first: int, clock: int) -> Pixels:
        pixels = np.full((768, 1024), 0x336699, dtype=np.uint32)
        pixels[150:550, 203:843] = console.page(first, 640, 400)
        pixels[0:16, 950:1000] = clock
        return pixels

    move = found(desktop(0, 1), desktop(1, 2))
    assert move is not None
    assert (move.right, move.down) == (0, -16)
    assert move.destination.contains(Rect(203, 150, 400, 384))


def test_a_fixed_status_line_is_not_part_of_the_move() -> None:
    console = Console()

    def pager(first: int) -> Pixels:
        pixels = console.page(first, 1024, 768)
        pixels[752:] = 0xFFFFFF
        return pixels

    move = found(pager(0), pager(1))
    assert move is not None
    assert (move.down, move.destination.y, move.destination.bottom) == (-16, 0, 736)


@pytest.mark.parametrize(("right", "down"), [(0, -37), (0, 1), (-5, 0), (300, 0)])
def test_a_picture_that_moves_straight_is_found_completely(right: int, down: int) -> None:
    old = np.random.default_rng(3).integers(0, 1 << 24, (480, 640), dtype=np.uint32)
    new = np.roll(old, (down, right), (0, 1))
    move = found(old, new)
    assert move is not None
    assert (move.right, move.down) == (right, down)
    assert move.source.area == (480 - abs(down)) * (640 - abs(right))


@pytest.mark.parametrize(("right", "down"), [(0, -20), (0, 20), (-20, 0), (20, 0)])
def test_a_move_on_an_odd_sized_screen_is_found_up_to_its_edges(right: int, down: int) -> None:
    old = np.random.default_rng(3).integers(0, 1 << 24, (333, 555), dtype=np.uint32)
    new = np.roll(old, (down, right), (0, 1))
    new[150:190, 250:300] = 7
    move = found(old, new)
    assert move is not None
    assert (move.right, move.down) == (right, down)
    x, y = max(0, right), max(0, down)
    x_end, y_end = 555 + min(0, right), 333 + min(0, down)
    assert move.destination in (
        Rect(x, y, 250 - x, y_end - y),
        Rect(300, y, x_end - 300, y_end - y),
        Rect(x, y, x_end - x, 150 - y),
        Rect(x, 190, x_end - x, y_end - 190),
    )


def test_a_different_picture_gives_no_move() -> None:
    random = np.random.default_rng(4)
    old, new = random.integers(0, 1 << 24, (2, 480, 640), dtype=np.uint32)
    assert found(old, new) is None


def test_a_change_of_a_flat_color_gives_no_move() -> None:
    assert found(np.zeros((480, 640), np.uint32), np.ones((480, 640), np.uint32)) is None


def test_small_damage_is_not_searched() -> None:
    old = np.random.default_rng(5).integers(0, 1 << 24, (480, 640), dtype=np.uint32)
    new = old.copy()
    new[0:100, 0:100] = old[1:101, 0:100]
    assert found(old, new) is None


def test_no_damage_gives_no_move() -> None:
    old = np.zeros((480, 640), np.uint32)
    assert found(old, old) is None


def test_equal_signatures_alone_give_no_wrong_move(monkeypatch: pytest.MonkeyPatch) -> None:
    """All signatures are equal here. A reported move is still exact: `found` compares each pixel."""
    console = Console()
    old, new = console.page(0, 640, 480), console.page(1, 640, 480)
    new[::40] ^= 1
    for distance in (-16, 5, 479, -479):
        monkeypatch.setattr("vramtap.display.motion._likely_distance", lambda *_, distance=distance: distance)
        move = found(old, new)
        assert move is None or move.right == distance or move.down == distance


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 200),
    st.integers(1, 200),
    st.integers(1, 4),
    st.integers(-60, 60),
    st.integers(-60, 60),
    st.lists(st.tuples(st.integers(0, 190), st.integers(0, 190), st.integers(1, 30)), max_size=4),
    st.integers(0, 2**32 - 1),
)
def test_every_reported_move_is_exact(
    width: int,
    height: int,
    colors: int,
    right: int,
    down: int,
    blots: list[tuple[int, int, int]],
    seed: int,
) -> None:
    """`found` checks each pixel. Few colors make many lines equal. Blots interrupt every move."""
    old = np.random.default_rng(seed).integers(0, colors, (height, width), dtype=np.uint32)
    new = np.roll(old, (down, right), (0, 1))
    for x, y, size in blots:
        new[y : y + size, x : x + size] = 9
    move = found(old, new)
    assert move is None or 0 in (move.right, move.down)
