"""Tests of Screen, against a slow decoder of the same memory."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.region_reference import FakeSpace, decode, modes, painted
from vramtap.display import screen as module
from vramtap.display.backlog import DamageBacklog
from vramtap.display.damage import Damage, Move
from vramtap.display.mode import Mode, PixelFormat
from vramtap.display.region import Rect
from vramtap.display.screen import Screen, row_bands
from vramtap.errors import KernelError, ModeError
from vramtap.pages import NO_PAGES, PAGE_SIZE, PageRuns

if TYPE_CHECKING:
    from numpy.typing import NDArray

WHOLE = Rect(0, 0, 1 << 16, 1 << 16)
WRITES = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 200)), max_size=5)


class Guest:
    """Guest memory, the pages written since the last `collect`, and a screen that follows it."""

    def __init__(self, mode: Mode, seed: int = 0) -> None:
        self.random = random.Random(seed)
        self.mode = mode
        self.space = FakeSpace(mode.window[1] + 2, self.random)
        self.dirty: set[int] = set()
        self.screen = Screen()
        self.screen.set_mode(mode)
        self.screen.refresh(self.space.extent, NO_PAGES)

    @property
    def truth(self) -> NDArray[np.uint32]:
        return decode(self.space.memory, self.mode)

    def write(self, at: int, size: int) -> None:
        data = self.random.randbytes(size)
        data = data[: len(self.space.memory) - at]
        self.space.memory[at : at + len(data)] = data
        self.dirty.update(range(at // PAGE_SIZE, (at + len(data) - 1) // PAGE_SIZE + 1))

    def write_part(self, where: float, size: int) -> None:
        self.write(int(where * len(self.space.memory)), size)

    def collect(self) -> PageRuns:
        runs = PageRuns.from_pages(self.dirty)
        self.dirty.clear()
        return runs

    def refresh(self, runs: PageRuns | None = None) -> Damage:
        return self.screen.refresh(self.space.extent, self.collect() if runs is None else runs)


def check(damage: Damage, before: NDArray[np.uint32], after: NDArray[np.uint32]) -> None:
    """Check a damage against two states of a screen of one size."""
    height, width = after.shape
    assert (damage.width, damage.height, damage.resized) == (width, height, False)
    count = painted(width, height, damage.rects)
    assert count.max() <= 1
    assert count[before != after].all()
    for rect in damage.rects:
        assert (before[rect.slices] != after[rect.slices]).any()
    for move in damage.moves:
        assert np.array_equal(after[move.destination.slices], before[move.source.slices])
    assert bool(damage) == bool((before != after).any())


@settings(max_examples=150, deadline=None)
@given(modes(), st.lists(WRITES, max_size=4), st.sets(st.integers(0, 60)), st.integers(0, 2**32 - 1))
def test_refresh_copies_the_memory_and_returns_the_exact_damage(
    mode: Mode, rounds: list[list[tuple[float, int]]], extra: set[int], seed: int
) -> None:
    guest = Guest(mode, seed)
    assert np.array_equal(guest.screen.pixels, guest.truth)
    first, last = mode.window
    for writes in rounds:
        before = guest.screen.pixels.copy()
        for write in writes:
            guest.write_part(*write)
        runs = guest.collect().union(PageRuns.from_pages(page for page in extra if page < last + 2))
        guest.space.reads = [0] * len(guest.space.reads)
        damage = guest.refresh(runs)
        assert np.array_equal(guest.screen.pixels, guest.truth)
        check(damage, before, guest.screen.pixels)
        wanted = runs.clip(first, last)
        assert damage.pages == wanted.count
        assert guest.space.reads == [int(page in wanted) for page in range(last + 2)]


@settings(max_examples=100, deadline=None)
@given(
    modes(max_padding=200),
    st.lists(st.tuples(WRITES, WRITES, st.booleans()), min_size=1, max_size=5),
    st.integers(0, 2**32 - 1),
)
def test_writes_during_a_refresh_reach_every_viewer(
    mode: Mode, rounds: list[tuple[list[tuple[float, int]], list[tuple[float, int]], bool]], seed: int
) -> None:
    guest = Guest(mode, seed)
    backlog = DamageBacklog(mode.width, mode.height)
    viewer = np.zeros((mode.height, mode.width), dtype=np.uint32)
    for before, during, takes in rounds:
        for write in before:
            guest.write_part(*write)
        late = list(during)

        def draw_on(_page: int, late: list[tuple[float, int]] = late) -> None:
            if late:
                guest.write_part(*late.pop())

        guest.space.after_page = draw_on
        backlog.add(guest.refresh())
        if takes:
            update = backlog.take(WHOLE, moves=True)
            for move in update.moves:
                viewer[move.destination.slices] = viewer[move.source.slices].copy()
            for rect in update.rects:
                viewer[rect.slices] = guest.screen.pixels[rect.slices]
            assert np.array_equal(viewer, guest.screen.pixels)
    guest.space.after_page = None
    backlog.add(guest.refresh())
    update = backlog.take(WHOLE, moves=False)
    for rect in update.rects:
        viewer[rect.slices] = guest.screen.pixels[rect.slices]
    assert np.array_equal(guest.screen.pixels, guest.truth)
    assert np.array_equal(viewer, guest.truth)


@settings(max_examples=100, deadline=None)
@given(modes(), WRITES, WRITES, st.integers(0, 5), st.integers(0, 2**32 - 1))
def test_a_failed_read_loses_no_change(
    mode: Mode,
    writes: list[tuple[float, int]],
    later: list[tuple[float, int]],
    pages_before_failure: int,
    seed: int,
) -> None:
    guest = Guest(mode, seed)
    before = guest.screen.pixels.copy()
    for write in writes:
        guest.write_part(*write)
    runs = guest.collect()
    guest.space.fail_after_pages = pages_before_failure
    if runs.clip(*mode.window).count <= pages_before_failure:
        guest.refresh(runs)
        assert np.array_equal(guest.screen.pixels, guest.truth)
        return
    with pytest.raises(KernelError, match="EFAULT"):
        guest.refresh(runs)
    assert np.array_equal(guest.screen.pixels, before)
    guest.space.fail_after_pages = None
    for write in later:
        guest.write_part(*write)
    damage = guest.refresh(runs.union(guest.collect()))
    assert np.array_equal(guest.screen.pixels, guest.truth)
    check(damage, before, guest.screen.pixels)


@given(modes(), st.integers(0, 2**32 - 1))
def test_row_bands_hold_every_row_with_a_pixel_on_the_pages(mode: Mode, seed: int) -> None:
    choice = random.Random(seed)
    pages = [page for page in range(mode.window[1] + 2) if choice.random() < 0.3]
    row_bytes = mode.width * mode.format.bytes_per_pixel
    starts = [mode.offset_bytes + y * mode.stride_bytes for y in range(mode.height)]
    wanted = [
        any(start < (page + 1) * PAGE_SIZE and start + row_bytes > page * PAGE_SIZE for page in pages)
        for start in starts
    ]
    runs = PageRuns.from_pages(pages)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "JOIN_ROWS", 1)
        exact = row_bands(runs, mode)
    assert exact == list(PageRuns.from_mask(np.array(wanted)))
    joined = row_bands(runs, mode)
    assert set(PageRuns(exact)) == set(PageRuns(exact).intersection(PageRuns(joined)))
    assert all(later[0] - earlier[1] >= module.JOIN_ROWS for earlier, later in pairwise(joined))
    assert all(0 <= top < bottom <= mode.height for top, bottom in joined)


def test_pages_that_were_not_reported_are_not_read() -> None:
    guest = Guest(Mode(1024, 8, 4096))
    before = guest.screen.pixels.copy()
    guest.space.memory[0] ^= 0xFF
    guest.space.memory[4096] ^= 0xFF
    damage = guest.refresh(PageRuns([(1, 2)]))
    assert damage == Damage(1024, 8, (Rect(0, 1, 1, 1),), pages=1)
    assert np.array_equal(guest.screen.pixels[0], before[0])


def test_a_write_to_padding_or_the_unused_byte_gives_no_damage() -> None:
    guest = Guest(Mode(4, 4, 64))
    for at in (3, 16, 63, 64 + 7):
        guest.space.memory[at] ^= 0xFF
    assert not guest.refresh(PageRuns([(0, 1)]))
    assert (guest.screen.pixels >> 24).max() == 0


@pytest.mark.parametrize("changed", [4095, 4096, 4097])
def test_a_pixel_that_crosses_two_pages_is_read_from_both(changed: int) -> None:
    mode = Mode(2000, 2, 6000, PixelFormat.RG24, offset_bytes=2)
    assert (4095 - mode.offset_bytes) % 3 == 1, "the pixel has bytes on both sides"
    guest = Guest(mode)
    guest.space.memory[changed] ^= 0xFF
    damage = guest.refresh(PageRuns.from_pages([changed // PAGE_SIZE]))
    assert damage.rects == (Rect((changed - 2) // 3, 0, 1, 1),)
    assert np.array_equal(guest.screen.pixels, guest.truth)


def test_pixels_is_one_read_only_view() -> None:
    guest = Guest(Mode(8, 8, 32))
    view = guest.screen.pixels
    with pytest.raises(ValueError, match="read-only"):
        view[0, 0] = 1
    guest.write(0, 4)
    guest.refresh()
    assert view is guest.screen.pixels
    assert np.array_equal(view, guest.truth)


def test_a_scrolling_console_gives_a_move() -> None:
    guest = Guest(Mode(640, 480, 2560))
    guest.space.memory[: 464 * 2560] = guest.space.memory[16 * 2560 : 480 * 2560]
    before = guest.screen.pixels.copy()
    damage = guest.refresh(PageRuns.full(300))
    assert damage.moves == (Move(Rect(0, 16, 640, 464), 0, 0),)
    check(damage, before, guest.screen.pixels)


# Modes


def test_a_new_screen_has_no_pixels() -> None:
    screen = Screen()
    assert (screen.mode, screen.width, screen.height, screen.window) == (None, 0, 0, (0, 0))
    assert screen.pixels.shape == (0, 0)
    with pytest.raises(ValueError, match="without a mode"):
        screen.refresh(FakeSpace(1, random.Random(0)).extent, NO_PAGES)


def test_the_first_refresh_reads_the_window_and_damages_the_whole_screen() -> None:
    space = FakeSpace(4, random.Random(0))
    screen = Screen()
    assert screen.set_mode(Mode(10, 10, 400, offset_bytes=5000))
    assert screen.window == (1, 3)
    damage = screen.refresh(space.extent, PageRuns([(2, 3)]))
    assert damage == Damage(10, 10, (Rect(0, 0, 10, 10),), resized=True, pages=2)
    assert space.reads == [0, 1, 1, 0]
    assert not screen.set_mode(Mode(10, 10, 400, offset_bytes=5000))


@settings(max_examples=60, deadline=None)
@given(modes(), modes(), st.booleans(), st.integers(0, 2**32 - 1))
def test_a_new_mode_reads_the_window_and_compares_if_the_size_stays(
    one: Mode, other: Mode, same_size: bool, seed: int
) -> None:
    if same_size:
        stride = max(other.stride_bytes, one.width * other.format.bytes_per_pixel)
        other = replace(other, width=one.width, height=one.height, stride_bytes=stride)
    guest = Guest(one if one.window[1] > other.window[1] else other, seed)
    guest.screen.set_mode(one)
    guest.mode = one
    guest.refresh()
    before = guest.screen.pixels.copy()
    unread = guest.screen.set_mode(other)
    assert np.array_equal(guest.screen.pixels, before), "pixels change with the refresh, not before"
    assert unread == (replace_palette(one, other) != other)
    guest.mode = other
    damage = guest.refresh(NO_PAGES)
    assert np.array_equal(guest.screen.pixels, guest.truth)
    if before.shape == guest.truth.shape:
        check(damage, before, guest.truth)
    else:
        assert damage.resized
        assert damage.rects == (Rect(0, 0, other.width, other.height),)


def replace_palette(one: Mode, other: Mode) -> Mode:
    return replace(one, palette=other.palette) if one.format is other.format else one


def test_a_new_palette_needs_no_reading() -> None:
    palette = tuple(range(256))
    guest = Guest(Mode(16, 16, 16, PixelFormat.C8, palette=palette))
    before = guest.screen.pixels.copy()
    red = tuple(color << 16 for color in palette)
    guest.mode = replace(guest.mode, palette=red)
    guest.space.bytes_read = 0
    assert not guest.screen.set_mode(guest.mode)
    damage = guest.refresh(NO_PAGES)
    assert guest.space.bytes_read == 0
    assert damage.pages == 0
    check(damage, before, guest.truth)
    assert np.array_equal(guest.screen.pixels, guest.truth)


def test_after_a_failed_first_read_the_next_refresh_reads_the_window() -> None:
    guest = Guest(Mode(16, 16, 64))
    before = guest.screen.pixels.copy()
    guest.mode = Mode(32, 8, 128, offset_bytes=16)
    assert guest.screen.set_mode(guest.mode)
    guest.space.fail_after_pages = 0
    with pytest.raises(KernelError):
        guest.refresh(NO_PAGES)
    assert np.array_equal(guest.screen.pixels, before)
    assert (guest.screen.width, guest.screen.height) == (16, 16)
    assert guest.screen.set_mode(guest.mode), "still to be read"
    guest.space.fail_after_pages = None
    assert guest.refresh(NO_PAGES).resized
    assert np.array_equal(guest.screen.pixels, guest.truth)


def test_after_an_error_in_the_middle_the_next_refresh_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = Guest(Mode(64, 64, 256))
    before = guest.screen.pixels.copy()
    guest.write(0, 8000)

    def no_memory(*_arguments: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(module, "find_move", no_memory)
        with pytest.raises(MemoryError):
            guest.refresh()
    assert np.array_equal(guest.screen.pixels, before)
    check(guest.refresh(NO_PAGES), before, guest.truth)
    assert np.array_equal(guest.screen.pixels, guest.truth)


def test_a_too_small_extent_raises_before_memory_is_allocated() -> None:
    screen = Screen()
    screen.set_mode(Mode(8, 16384, 1 << 20))
    with pytest.raises(ModeError, match="the extent has 8192"):
        screen.refresh(FakeSpace(2, random.Random(0)).extent, NO_PAGES)


# Targets without a linear framebuffer


def test_replace_returns_the_exact_damage() -> None:
    screen = Screen()
    pixels = np.arange(0xFF000000, 0xFF000000 + 64 * 48, dtype=np.uint32).reshape(48, 64)
    assert screen.replace(pixels) == Damage(64, 48, (Rect(0, 0, 64, 48),), resized=True)
    assert np.array_equal(screen.pixels, pixels & 0xFFFFFF)
    assert screen.mode is None
    assert not screen.replace(pixels)
    pixels[40, 3] += 1
    assert screen.replace(pixels) == Damage(64, 48, (Rect(3, 40, 1, 1),))


def test_after_replace_the_same_mode_reads_the_window() -> None:
    guest = Guest(Mode(16, 16, 64))
    guest.screen.replace(np.zeros((16, 16), dtype=np.uint32))
    before = guest.screen.pixels.copy()
    assert guest.screen.set_mode(guest.mode)
    check(guest.refresh(NO_PAGES), before, guest.truth)
    assert np.array_equal(guest.screen.pixels, guest.truth)


@pytest.mark.parametrize("shape", [(0, 0), (5,), (1, 16385), (16384, 16384)])
def test_replace_with_a_wrong_shape_raises(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModeError, match="replace"):
        Screen().replace(np.broadcast_to(np.uint32(0), shape))
