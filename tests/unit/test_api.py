"""What the package offers to Python programs: open and track."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import vramtap
from support.testbed.writer import Writer
from vramtap.errors import NotFound, UsageError, VramtapError
from vramtap.pages import NO_PAGES, PAGE_SIZE, PageRuns
from vramtap.trackers.base import AllDirty, Reason

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from vramtap.trackers.array_writes import ArrayWrites

WIDTH, HEIGHT = 320, 200
TRACKERS = ("auto", "log", "compare")


def memory_of(pages: int) -> NDArray[np.uint8]:
    """An array that begins with a page."""
    memory = np.zeros((pages + 1) * PAGE_SIZE, np.uint8)
    return memory[-memory.ctypes.data % PAGE_SIZE :][: pages * PAGE_SIZE]


@contextlib.contextmanager
def tracked(array: NDArray[Any], tracker: str = "auto") -> Iterator[ArrayWrites]:
    """The writes to an array, after the first answer."""
    following = vramtap.track(array, tracker=tracker)
    try:
        first = following.collect()
        assert isinstance(first, AllDirty)
        assert first.reason is Reason.FIRST
        yield following
    finally:
        following.stop()


@pytest.mark.parametrize("name", TRACKERS)
def test_written_pages_of_an_array_are_reported(name: str) -> None:
    array = memory_of(20)
    with tracked(array, name) as tracker:
        assert tracker.collect() == NO_PAGES
        array[[0, 5 * PAGE_SIZE, 6 * PAGE_SIZE, 20 * PAGE_SIZE - 1]] = 1
        assert tracker.collect() == PageRuns([(0, 1), (5, 7), (19, 20)])
        assert tracker.collect() == NO_PAGES


@pytest.mark.parametrize("name", TRACKERS)
def test_page_zero_is_the_page_in_which_the_array_begins(name: str) -> None:
    rows = memory_of(4)[100:-100].view(np.uint32).reshape(2, -1)
    with tracked(rows, name) as tracker:
        rows[0, 0] = 7
        assert tracker.collect() == PageRuns([(0, 1)])
        rows[1, -1] = 7
        assert tracker.collect() == PageRuns([(3, 4)])


@pytest.mark.parametrize("name", TRACKERS)
def test_restored_pages_are_reported_again(name: str) -> None:
    array = memory_of(8)
    with tracked(array, name) as tracker:
        array[3 * PAGE_SIZE] = 1
        runs = tracker.collect()
        assert isinstance(runs, PageRuns)
        tracker.restore(runs)
        array[4 * PAGE_SIZE] = 1
        assert tracker.collect() == PageRuns([(3, 5)])


@pytest.mark.parametrize("name", TRACKERS)
def test_iteration_gives_written_byte_ranges_of_the_array(name: str) -> None:
    array = memory_of(4)[100:-100]
    with vramtap.track(array, tracker=name) as writes:
        assert (writes.byte_offset, writes.nbytes, writes.pages) == (100, 4 * PAGE_SIZE - 200, 4)
        assert list(writes) == [(0, array.nbytes)], "the first pass gives the whole array"
        assert list(writes) == []
        array[0] = array[2 * PAGE_SIZE] = 1
        assert list(writes) == [(0, PAGE_SIZE - 100), (2 * PAGE_SIZE - 100, 3 * PAGE_SIZE - 100)]
        array[-1] = 1
        assert list(writes) == [(3 * PAGE_SIZE - 100, array.nbytes)]


def test_tracker_keeps_its_array_alive() -> None:
    with contextlib.ExitStack() as stack:
        tracker = vramtap.track(np.ones(64 * PAGE_SIZE, np.uint8))
        stack.callback(tracker.stop)
        tracker.collect()
        read = np.zeros(PAGE_SIZE, np.uint8)
        tracker.tracker.read_from.read(PageRuns([(5, 6)]), read, 5)
        assert read.all()


@pytest.mark.parametrize(
    "array",
    [np.zeros(0), np.zeros((64, 64))[:, ::2], np.zeros((64, 64)).T, np.frombuffer(bytes(64), np.uint8)],
    ids=["empty", "strided", "transposed", "read-only"],
)
def test_unsuitable_arrays_are_refused(array: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match="C-contiguous, writable and not empty"):
        vramtap.track(array)


def test_track_refuses_an_unknown_tracker() -> None:
    with pytest.raises(UsageError, match="--tracker magic: no such tracker"):
        vramtap.track(np.zeros(64), tracker="magic")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A screen in a file."""
    path = tmp_path / "screen"
    path.write_bytes(bytes(WIDTH * HEIGHT * 4))
    return path


async def test_changes_yield_exact_rectangles(file: Path) -> None:
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


async def test_screen_pixels_are_read_only(file: Path) -> None:
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


def test_invalid_url_is_refused_before_anything_is_opened() -> None:
    with pytest.raises(UsageError, match="'qmu' is not a kind of target"):
        vramtap.open("qmu:/run/vm.qmp")


async def test_missing_target_is_reported_on_entering(tmp_path: Path) -> None:
    tap = vramtap.open(f"shm:{tmp_path}/none?mode=1x1")
    with pytest.raises(NotFound):
        await tap.__aenter__()


async def test_tracker_that_cannot_work_is_refused(file: Path) -> None:
    with pytest.raises(VramtapError, match="--tracker compare"):
        await vramtap.open(f"shm:{file}?mode=1x1", tracker="log").__aenter__()


async def test_screenshot_is_a_copy_of_the_screen(file: Path) -> None:
    screen = np.memmap(file, np.uint32, "r+", shape=(HEIGHT, WIDTH))
    screen[9, 7] = 0xABCDEF
    pixels = await vramtap.screenshot(f"shm:{file}?mode={WIDTH}x{HEIGHT}")
    assert pixels.dtype == np.uint32
    assert np.array_equal(pixels, screen)
    pixels[0, 0] = 1


async def test_machine_of_the_caller_can_be_tapped() -> None:
    with vramtap.Machine(command_line="workload=idle mode=320x200", cpu="unicorn") as machine:
        async with asyncio.timeout(60), vramtap.open(machine) as tap:
            while tap.screen.width != 320:
                await tap.refresh()
            assert tap.screen.pixels.shape == (200, 320)
        assert machine.ended is None, "leaving the tap does not end the caller's machine"
