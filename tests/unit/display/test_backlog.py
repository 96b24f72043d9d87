"""Tests of DamageBacklog, against a model viewer that holds its pixels in an array."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vramtap.display.backlog import MAX_RECTS, DamageBacklog, ScreenUpdate
from vramtap.display.damage import Damage, Move
from vramtap.display.region import Rect, Region

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDES = st.integers(1, 100)
PLACES = st.tuples(st.integers(0, 90), st.integers(0, 90))
SMALL = st.builds(Rect, st.integers(-3, 95), st.integers(-3, 95), st.integers(1, 12), st.integers(1, 12))
RECTS = st.builds(Rect, st.integers(-10, 95), st.integers(-10, 95), st.integers(1, 100), st.integers(1, 100))
WHOLE = Rect(0, 0, 1 << 16, 1 << 16)


class Viewer:
    """Model of a client that applies updates."""

    def __init__(self, width: int, height: int) -> None:
        self.pixels: NDArray[np.uint32] = np.full((height, width), 0xDEAD, dtype=np.uint32)

    def apply(self, update: ScreenUpdate, screen: NDArray[np.uint32]) -> None:
        for move in update.moves:
            self.pixels[move.destination.slices] = self.pixels[move.source.slices].copy()
        for rect in update.rects:
            self.pixels[rect.slices] = screen[rect.slices]


class World:
    """A screen that is drawn on, scrolled and resized, and a viewer that takes updates at any time."""

    def __init__(self, width: int, height: int) -> None:
        self.color = 0
        self.screen: NDArray[np.uint32] = np.zeros((height, width), dtype=np.uint32)
        self.paint(self.whole)
        self.backlog = DamageBacklog(width, height)
        self.viewer = Viewer(width, height)

    @property
    def whole(self) -> Rect:
        return Rect(0, 0, self.screen.shape[1], self.screen.shape[0])

    def damage(self, *rects: Rect, moves: tuple[Move, ...] = ()) -> Damage:
        return Damage(self.whole.width, self.whole.height, rects, moves)

    def paint(self, rect: Rect) -> None:
        """Fill a rectangle with new values. Each pixel gets a different one, so none is right by accident."""
        height, width = self.screen[rect.slices].shape
        self.color += 1
        numbers = np.arange(width * height, dtype=np.uint32).reshape(height, width)
        self.screen[rect.slices] = numbers + self.color * 10_000

    def draw(self, rect: Rect) -> None:
        inside = rect.intersect(self.whole)
        if inside is not None:
            self.paint(inside)
            self.backlog.add(self.damage(inside))

    def move_of(self, source: Rect, x: int, y: int) -> Move | None:
        """Return the part of a move that fits the screen, or None."""
        inside = source.intersect(self.whole)
        fits = inside and Rect(x, y, inside.width, inside.height).intersect(self.whole)
        return Move(Rect(inside.x, inside.y, fits.width, fits.height), x, y) if inside and fits else None

    def move(self, source: Rect, to: tuple[int, int], blot: Rect) -> None:
        move = self.move_of(source, *to)
        if move is None:
            return
        moved = move.destination
        self.screen[moved.slices] = self.screen[move.source.slices].copy()
        drawn = blot.intersect(self.whole)
        if drawn is None or drawn.intersect(moved) is not None:
            self.backlog.add(self.damage(moved, moves=(move,)))
        else:
            self.paint(drawn)
            self.backlog.add(self.damage(drawn, moved, moves=(move,)))

    def scroll(self, down: int, left: int, right: int) -> None:
        part = Rect(left, 0, right - left, 1 << 16).intersect(self.whole)
        if part is None or abs(down) >= part.height or not down:
            return
        rows = part.height - abs(down)
        source = Rect(part.x, max(0, -down), part.width, rows)
        moved = Rect(part.x, max(0, down), part.width, rows)
        self.screen[moved.slices] = self.screen[source.slices].copy()
        self.paint(Rect(part.x, 0 if down > 0 else rows, part.width, abs(down)))
        self.backlog.add(self.damage(part, moves=(Move(source, moved.x, moved.y),)))

    def several_moves(self, at: list[tuple[Rect, tuple[int, int]]]) -> None:
        """Add one damage with several moves. All read the old screen; their destinations are disjoint."""
        old = self.screen.copy()
        moves: list[Move] = []
        for source, to in at:
            move = self.move_of(source, *to)
            if move and all(move.destination.intersect(other.destination) is None for other in moves):
                moves.append(move)
        for move in moves:
            self.screen[move.destination.slices] = old[move.source.slices]
        self.backlog.add(self.damage(*(move.destination for move in moves), moves=tuple(moves)))

    def take(self, area: Rect, moves: bool) -> None:
        touched = self.backlog.touches(area)
        update = self.backlog.take(area, moves=moves)
        assert touched == bool(update.moves or update.rects)
        assert moves or not update.moves
        rounded = Region(self.whole.width, self.whole.height).round_out(area)
        count = np.zeros(self.screen.shape, dtype=np.int64)
        for rect in update.rects:
            assert rounded is not None
            assert rounded.contains(rect)
            count[rect.slices] += 1
        assert count.max() <= 1
        self.viewer.apply(update, self.screen)
        inside = area.intersect(self.whole)
        if inside is not None:
            assert np.array_equal(self.viewer.pixels[inside.slices], self.screen[inside.slices])
        assert not self.backlog.touches(area)

    def lose(self, area: Rect) -> None:
        """Make the viewer lose an area and request it again."""
        inside = area.intersect(self.whole)
        if inside is not None:
            self.viewer.pixels[inside.slices] = 0xBAD
        self.backlog.add_area(area)

    def resize(self, width: int, height: int) -> None:
        self.screen = np.zeros((height, width), dtype=np.uint32)
        self.paint(self.whole)
        self.backlog.add(Damage(width, height, (self.whole,), resized=True))
        assert self.backlog.resized
        assert (self.backlog.width, self.backlog.height) == (width, height)
        self.viewer = Viewer(width, height)
        self.backlog.accept_size()
        assert not self.backlog.resized

    def check(self) -> None:
        """Check that a viewer that takes the whole backlog now has the screen."""
        viewer = Viewer(0, 0)
        viewer.pixels = self.viewer.pixels.copy()
        viewer.apply(deepcopy(self.backlog).take(WHOLE, moves=True), self.screen)
        assert np.array_equal(viewer.pixels, self.screen)


DRAWS = st.tuples(st.just("draw"), st.one_of(SMALL, SMALL, RECTS))
SCROLLS = st.tuples(
    st.just("scroll"),
    st.sampled_from([-16, 16, -32, -1, 3, -7, 5]),
    st.sampled_from([0, 0, 16, 5]),
    st.sampled_from([100, 100, 64, 70]),
)
OTHER_STEPS = st.one_of(
    st.tuples(st.just("move"), RECTS, PLACES, SMALL),
    st.tuples(st.just("several_moves"), st.lists(st.tuples(RECTS, PLACES), min_size=2, max_size=4)),
    st.tuples(st.just("take"), st.one_of(RECTS, st.just(WHOLE)), st.booleans()),
    st.tuples(st.just("lose"), st.one_of(SMALL, RECTS)),
    st.tuples(st.just("resize"), SIDES, SIDES),
)


def run(world: World, steps: list[tuple[Any, ...]]) -> None:
    for name, *arguments in steps:
        getattr(world, name)(*arguments)
        world.check()
    world.take(WHOLE, moves=True)
    assert not world.backlog
    assert np.array_equal(world.viewer.pixels, world.screen)


@settings(max_examples=300, deadline=None)
@given(SIDES, SIDES, st.lists(st.one_of(DRAWS, SCROLLS, OTHER_STEPS), max_size=12))
def test_any_steps_leave_the_viewer_with_the_screen(
    width: int, height: int, steps: list[tuple[Any, ...]]
) -> None:
    run(World(width, height), steps)


@settings(max_examples=300, deadline=None)
@given(
    st.integers(64, 100),
    st.integers(64, 100),
    st.lists(st.one_of(SCROLLS, SCROLLS, SCROLLS, DRAWS, OTHER_STEPS), max_size=10),
)
def test_a_viewer_that_misses_scrolls_ends_with_the_screen(
    width: int, height: int, steps: list[tuple[Any, ...]]
) -> None:
    """The viewer starts with the screen, since moves are kept only for a viewer that has most of it."""
    world = World(width, height)
    run(world, [("take", WHOLE, False), *steps])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.tuples(st.just("draw"), SMALL), st.tuples(st.just("lose"), SMALL)), max_size=2))
def test_changes_between_two_joined_scrolls_are_not_lost(steps: list[tuple[Any, ...]]) -> None:
    scroll = ("scroll", -16, 0, 100)
    world = World(100, 100)
    run(world, [("take", WHOLE, False), scroll, *steps, scroll])


def caught_up(width: int, height: int) -> DamageBacklog:
    backlog = DamageBacklog(width, height)
    backlog.clear()
    return backlog


def scrolled(lines: int, width: int = 1024, height: int = 768) -> Damage:
    move = Move(Rect(0, lines, width, height - lines), 0, 0)
    return Damage(width, height, (Rect(0, 0, width, height),), (move,))


def test_a_new_backlog_is_the_whole_screen() -> None:
    backlog = DamageBacklog(100, 50)
    assert backlog
    assert backlog.take(WHOLE, moves=True) == ScreenUpdate((), (Rect(0, 0, 100, 50),))
    assert not backlog


def test_a_scroll_gives_a_move_and_the_new_line() -> None:
    backlog = caught_up(1024, 768)
    backlog.add(scrolled(16))
    assert backlog.take(WHOLE, moves=True) == ScreenUpdate(scrolled(16).moves, (Rect(0, 752, 1024, 16),))


def test_a_viewer_that_cannot_copy_gets_pixels() -> None:
    backlog = caught_up(1024, 768)
    backlog.add(scrolled(16))
    assert backlog.take(WHOLE, moves=False) == ScreenUpdate((), (Rect(0, 0, 1024, 768),))


def test_scrolls_that_the_viewer_did_not_take_join_to_one() -> None:
    backlog = caught_up(1024, 768)
    for _ in range(5):
        backlog.add(scrolled(16))
    update = backlog.take(WHOLE, moves=True)
    assert update.moves == (Move(Rect(0, 80, 1024, 688), 0, 0),)
    assert update.rects == (Rect(0, 688, 1024, 80),)


def test_a_scroll_down_and_back_leaves_the_lost_line() -> None:
    backlog = caught_up(1024, 768)
    backlog.add(scrolled(16))
    back = Move(Rect(0, 0, 1024, 752), 0, 16)
    backlog.add(Damage(1024, 768, (Rect(0, 0, 1024, 768),), (back,)))
    assert backlog.take(WHOLE, moves=True) == ScreenUpdate((), (Rect(0, 0, 1024, 16),))


def test_damage_in_a_moves_source_moves_to_its_destination() -> None:
    backlog = caught_up(1024, 768)
    backlog.add(Damage(1024, 768, (Rect(64, 96, 8, 16),)))
    backlog.add(scrolled(16))
    update = backlog.take(WHOLE, moves=True)
    assert update.moves == scrolled(16).moves
    assert update.rects == (Rect(64, 80, 16, 16), Rect(0, 752, 1024, 16))


def test_a_move_of_mostly_damaged_pixels_becomes_plain_damage() -> None:
    backlog = DamageBacklog(1024, 768)
    backlog.add(scrolled(16))
    assert backlog.take(WHOLE, moves=True) == ScreenUpdate((), (Rect(0, 0, 1024, 768),))


def test_a_request_for_part_of_a_move_gets_pixels_and_the_rest_stays() -> None:
    backlog = caught_up(1024, 768)
    backlog.add(scrolled(16))
    assert backlog.take(Rect(0, 0, 512, 768), moves=True) == ScreenUpdate((), (Rect(0, 0, 512, 768),))
    assert backlog.take(WHOLE, moves=True) == ScreenUpdate((), (Rect(512, 0, 512, 768),))


def test_rects_of_an_update_are_bounded() -> None:
    backlog = caught_up(2048, 2048)
    for x, y in np.random.default_rng(1).integers(0, 2048, (2000, 2)).tolist():
        backlog.add(Damage(2048, 2048, (Rect(x, y, 1, 1),)))
    assert 1 < len(backlog.take(WHOLE, moves=True).rects) <= MAX_RECTS


def test_an_area_outside_the_screen_is_empty() -> None:
    backlog = DamageBacklog(10, 10)
    assert backlog.take(Rect(10, 0, 5, 5), moves=True) == ScreenUpdate((), ())
    assert not backlog.touches(Rect(10, 0, 5, 5))
    assert backlog


def test_damage_of_another_size_must_be_marked_resized() -> None:
    with pytest.raises(ValueError, match="11x10 screen added to a backlog of 10x10"):
        DamageBacklog(10, 10).add(Damage(11, 10, (Rect(0, 0, 1, 1),)))


@given(st.integers(1, 100), st.integers(1, 100), RECTS)
def test_a_second_take_of_an_area_gives_nothing(width: int, height: int, area: Rect) -> None:
    backlog = DamageBacklog(width, height)
    backlog.take(area, moves=True)
    assert not backlog.touches(area)
    assert backlog.take(area, moves=True) == ScreenUpdate((), ())
