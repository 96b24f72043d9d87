"""Viewers of a tap that the test drives."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pytest

from support.virtual_time import in_virtual_time
from vramtap.display.damage import Damage, Move
from vramtap.display.region import Rect
from vramtap.display.screen import Screen
from vramtap.errors import TargetGone
from vramtap.tap.tap import Tap
from vramtap.tap.viewer import Viewer, Watcher

if TYPE_CHECKING:
    from collections.abc import Iterator

WIDTH, HEIGHT = 64, 48
WHOLE = Rect(0, 0, WIDTH, HEIGHT)


class Source(Tap):
    """What a tap is to a viewer."""

    def __init__(self) -> None:
        self.screen = Screen()
        self.screen.replace(np.zeros((HEIGHT, WIDTH), np.uint32))
        self.closed = None
        self.wanting = 0
        self.refreshed = 0
        self.joined: list[Viewer] = []
        self.left: list[Viewer] = []
        self.on_fresh: list[tuple[Viewer, Damage]] = []

    @contextlib.contextmanager
    def wanted(self) -> Iterator[None]:
        self.wanting += 1
        try:
            yield
        finally:
            self.wanting -= 1

    async def fresh(self) -> None:
        self.refreshed += 1
        await asyncio.sleep(0)
        for viewer, damage in self.on_fresh:
            viewer.add(damage)
        self.on_fresh.clear()
        self.check()

    def check(self) -> None:
        if self.closed:
            raise TargetGone("tap", "source", self.closed)

    def join(self, viewer: Viewer) -> None:
        self.joined.append(viewer)

    def leave(self, viewer: Viewer) -> None:
        self.left.append(viewer)


def spot(x: int, y: int, **changed: object) -> Damage:
    damage = Damage(WIDTH, HEIGHT, (Rect(x, y, 1, 1),), pages=1)
    return dataclasses.replace(damage, **changed)  # type: ignore[arg-type]


def everything(viewer: Viewer) -> tuple[Rect, ...]:
    return viewer.backlog.take(WHOLE, moves=True).rects


@in_virtual_time
async def test_new_viewer_starts_with_the_whole_screen() -> None:
    viewer = Viewer(Source(), "new")
    await viewer.changed()
    assert everything(viewer) == (WHOLE,)


@in_virtual_time
async def test_viewer_requests_scans_only_while_it_waits() -> None:
    source = Source()
    viewer = Viewer(source, "waiting")
    viewer.backlog.clear()
    waiting = asyncio.create_task(viewer.changed())
    await asyncio.sleep(1)
    assert not waiting.done()
    assert source.wanting == 1
    viewer.add(spot(20, 20))
    await waiting
    assert source.wanting == 0
    assert everything(viewer) == (Rect(16, 16, 16, 16),)


@in_virtual_time
async def test_cancelled_wait_ends_the_request_for_scans() -> None:
    source = Source()
    viewer = Viewer(source, "impatient")
    viewer.backlog.clear()
    waiting = asyncio.create_task(viewer.changed())
    await asyncio.sleep(1)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert source.wanting == 0


@in_virtual_time
async def test_damage_between_two_waits_is_not_missed() -> None:
    source = Source()
    viewer = Viewer(source, "busy")
    for number in range(3):
        viewer.backlog.clear()
        viewer.add(spot(number, 0))
        await viewer.changed()
        assert everything(viewer)
    # Taken without having waited for it: the news of it is old then, and is not taken for new.
    viewer.add(spot(0, 0))
    viewer.backlog.clear()
    waiting = asyncio.create_task(viewer.changed())
    await asyncio.sleep(1)
    assert not waiting.done()
    viewer.add(spot(1, 1))
    await waiting


@in_virtual_time
async def test_damage_found_by_the_first_scan_ends_the_wait() -> None:
    source = Source()
    viewer = Viewer(source, "back again")
    viewer.backlog.clear()
    source.on_fresh.append((viewer, spot(3, 3)))
    await viewer.changed()
    assert source.refreshed == 1
    assert everything(viewer)


@in_virtual_time
async def test_new_size_alone_ends_the_wait() -> None:
    viewer = Viewer(Source(), "resized")
    viewer.backlog.clear()
    viewer.add(Damage(8, 8, (Rect(0, 0, 8, 8),), resized=True))
    viewer.backlog.take(Rect(0, 0, 8, 8), moves=True)
    await viewer.changed()
    assert viewer.backlog.resized
    viewer.backlog.accept_size()
    waiting = asyncio.create_task(viewer.changed())
    await asyncio.sleep(1)
    assert not waiting.done()
    waiting.cancel()
    await asyncio.wait([waiting])


@in_virtual_time
async def test_end_wakes_waiting_viewers_and_refuses_new_waits() -> None:
    source = Source()
    viewer = Viewer(source, "last")
    viewer.backlog.clear()
    waiting = asyncio.create_task(viewer.changed())
    await asyncio.sleep(1)
    source.closed = "it exited"
    viewer.wake()
    with pytest.raises(TargetGone, match="it exited"):
        await waiting
    with pytest.raises(TargetGone, match="it exited"):
        await Viewer(source, "late").changed()
    assert source.wanting == 0


def test_viewer_joins_when_entered_and_leaves_when_exited() -> None:
    source = Source()
    with Viewer(source, "leaving") as viewer:
        assert source.left == []
    assert source.left == [viewer]


# Whole damages


@in_virtual_time
async def test_watcher_gives_each_damage_unchanged() -> None:
    watcher = Watcher(Source(), "exact")
    move = Move(Rect(0, 16, 8, 8), 0, 0)
    damage = spot(7, 9, moves=(move,), pages=3)
    watcher.add(damage)
    assert await watcher.next() is damage
    waiting = asyncio.create_task(watcher.next())
    await asyncio.sleep(1)
    assert not waiting.done(), "it is taken, and nothing is new"
    watcher.add(spot(1, 1))
    assert (await waiting).rects == (Rect(1, 1, 1, 1),)


@in_virtual_time
async def test_untaken_damages_are_merged_without_moves() -> None:
    watcher = Watcher(Source(), "late")
    watcher.add(spot(0, 0, moves=(Move(Rect(8, 8, 1, 1), 0, 0),), pages=2))
    watcher.add(spot(40, 40, pages=3))
    damage = await watcher.next()
    assert damage.moves == (), "the second was on the screen that the first had made"
    assert damage.pages == 5
    assert set(damage.rects) == {Rect(0, 0, 16, 16), Rect(32, 32, 16, 16)}
    assert (damage.width, damage.height, damage.resized) == (WIDTH, HEIGHT, False)


@pytest.mark.parametrize("resized_first", [True, False])
@in_virtual_time
async def test_merged_damage_with_a_new_size_is_the_whole_screen(resized_first: bool) -> None:
    watcher = Watcher(Source(), "resized")
    if resized_first:
        watcher.add(Damage(WIDTH, HEIGHT, (WHOLE,), resized=True))
        watcher.add(spot(5, 5))
        expected = WHOLE
    else:
        watcher.add(spot(5, 5))
        watcher.add(Damage(32, 16, (Rect(0, 0, 32, 16),), resized=True))
        expected = Rect(0, 0, 32, 16)
    damage = await watcher.next()
    assert damage.resized
    assert damage.rects == (expected,)
    assert (damage.width, damage.height) == (expected.width, expected.height)


@in_virtual_time
async def test_watcher_gives_the_last_damage_before_the_end() -> None:
    source = Source()
    watcher = Watcher(source, "last")
    waiting = asyncio.create_task(watcher.next())
    await asyncio.sleep(1)
    last = spot(1, 2)
    watcher.add(last)
    source.closed = "it exited"
    watcher.wake()
    assert await waiting is last
    with pytest.raises(TargetGone, match="it exited"):
        await watcher.next()
