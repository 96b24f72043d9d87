"""What the package offers to Python programs: open and track."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import vramtap
from support.testbed.writer import Writer
from vramtap.errors import NotFound, UsageError, VramtapError
from vramtap.pages import NO_PAGES, PAGE_SIZE, PageRuns
from vramtap.trackers.base import AllDirty, Reason, Tracker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

WIDTH, HEIGHT = 320, 200
TRACKERS = ("auto", "log", "compare")


def memory_of(pages: int) -> NDArray[np.uint8]:
    """An array that begins with a page."""
    memory = np.zeros((pages + 1) * PAGE_SIZE, np.uint8)
    return memory[-memory.ctypes.data % PAGE_SIZE :][: pages * PAGE_SIZE]


@contextlib.contextmanager
def tracked(array: NDArray[Any], tracker: str = "auto") -> Iterator[Tracker]:
    """A tracker that has answered the first call."""
    following = vramtap.track(array, tracker=tracker)
    try:
        first = following.collect()
        assert isinstance(first, AllDirty)
        assert first.reason is Reason.FIRST
        yield following
    finally:
        following.stop()


@pytest.mark.parametrize("name", TRACKERS)
def test_the_pages_of_an_array_that_were_written_are_named(name: str) -> None:
    array = memory_of(20)
    with tracked(array, name) as tracker:
        assert tracker.collect() == NO_PAGES
        array[[0, 5 * PAGE_SIZE, 6 * PAGE_SIZE, 20 * PAGE_SIZE - 1]] = 1
        assert tracker.collect() == PageRuns([(0, 1), (5, 7), (19, 20)])
        assert tracker.collect() == NO_PAGES


@pytest.mark.parametrize("name", TRACKERS)
def test_pages_are_counted_from_the_one_the_array_begins_in(name: str) -> None:
    rows = memory_of(4)[100:-100].view(np.uint32).reshape(2, -1)
    with tracked(rows, name) as tracker:
        rows[0, 0] = 7
        assert tracker.collect() == PageRuns([(0, 1)])
        rows[1, -1] = 7
        assert tracker.collect() == PageRuns([(3, 4)])


@pytest.mark.parametrize("name", TRACKERS)
def test_what_could_not_be_used_is_named_again(name: str) -> None:
    array = memory_of(8)
    with tracked(array, name) as tracker:
        array[3 * PAGE_SIZE] = 1
        runs = tracker.collect()
        assert isinstance(runs, PageRuns)
        tracker.restore(runs)
        array[4 * PAGE_SIZE] = 1
        assert tracker.collect() == PageRuns([(3, 5)])


def test_the_array_lives_as_long_as_its_tracker() -> None:
    with contextlib.ExitStack() as stack:
        tracker = vramtap.track(np.ones(64 * PAGE_SIZE, np.uint8))
        stack.callback(tracker.stop)
        tracker.collect()
        read = np.zeros(PAGE_SIZE, np.uint8)
        tracker.read_from.read(PageRuns([(5, 6)]), read, 5)
        assert read.all()


@pytest.mark.parametrize(
    "array",
    [np.zeros(0), np.zeros((64, 64))[:, ::2], np.zeros((64, 64)).T, np.frombuffer(bytes(64), np.uint8)],
    ids=["empty", "strided", "transposed", "read-only"],
)
def test_what_cannot_be_tracked_is_refused(array: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match="C-contiguous, writable and not empty"):
        vramtap.track(array)


def test_no_such_tracker_is_said() -> None:
    with pytest.raises(UsageError, match="--tracker magic: no such tracker"):
        vramtap.track(np.zeros(64), tracker="magic")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A screen in a file."""
    path = tmp_path / "screen"
    path.write_bytes(bytes(WIDTH * HEIGHT * 4))
    return path


async def test_changes_come_as_they_are_made(file: Path) -> None:
    screen = np.memmap(file, np.uint32, "r+", shape=(HEIGHT, WIDTH))
    async with asyncio.timeout(60), vramtap.open(f"shm:{file}?mode={WIDTH}x{HEIGHT}") as tap:
        assert not tap.screen.pixels.any()
        seen = np.zeros((HEIGHT, WIDTH), np.uint32)
        changes = tap.changes()
        for number, (x, y) in enumerate([(0, 0), (WIDTH - 1, HEIGHT - 1), (77, 33)]):
            screen[y, x] = 0x102030 + number
            damage = await anext(changes)
            assert (damage.width, damage.height, damage.resized) == (WIDTH, HEIGHT, False)
            for rect in damage.rects:
                seen[rect.slices] = tap.screen.pixels[rect.slices]
            assert np.array_equal(seen, screen)


async def test_the_screen_is_for_reading_only(file: Path) -> None:
    async with vramtap.open(f"shm:{file}?mode={WIDTH}x{HEIGHT}") as tap:
        with pytest.raises(ValueError, match="read-only"):
            tap.screen.pixels[0, 0] = 1


async def test_changes_end_with_the_target() -> None:
    with Writer(64 * PAGE_SIZE) as writer:
        url = f"pid:{writer.pid}?address={writer.address:#x}&mode=64x64"
        async with asyncio.timeout(60), vramtap.open(url) as tap:
            os.kill(writer.pid, signal.SIGKILL)
            async for damage in tap.changes():
                assert damage
            assert tap.closed == f"process {writer.pid} exited"


def test_a_url_that_means_nothing_is_refused_before_anything_is_opened() -> None:
    with pytest.raises(UsageError, match="'qmu' is not a kind of target"):
        vramtap.open("qmu:/run/vm.qmp")


async def test_what_is_not_there_is_said_on_entering(tmp_path: Path) -> None:
    tap = vramtap.open(f"shm:{tmp_path}/none?mode=1x1")
    with pytest.raises(NotFound):
        await tap.__aenter__()


async def test_a_tracker_that_cannot_work_is_refused_and_the_target_let_go(file: Path) -> None:
    with pytest.raises(VramtapError, match="--tracker compare"):
        await vramtap.open(f"shm:{file}?mode=1x1", tracker="log").__aenter__()


async def test_a_machine_of_ones_own_is_offered() -> None:
    with vramtap.Machine(command_line="workload=idle mode=320x200", cpu="unicorn") as machine:
        async with asyncio.timeout(60), vramtap.open(machine) as tap:
            while tap.screen.width != 320:
                await tap.refresh()
    with pytest.raises(AttributeError, match="no attribute 'Machines'"):
        vramtap.__getattr__("Machines")


def test_the_package_alone_loads_nothing_heavy() -> None:
    code = "import sys, vramtap; print([name for name in ('numpy', 'asyncio') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
