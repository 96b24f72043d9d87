"""Promises of an armed HybridTracker beyond the contract of `Tracker`: no polling until the first write."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import TYPE_CHECKING, Self

import pytest

from support.armed import (
    PAGES,
    WAIT_MS,
    Armed,
    anonymous,
    attached,
    protected,
)
from support.scribe import KERNEL_BYTE, PAGE
from vramtap.display.mode import Mode
from vramtap.memory.extent import Extent
from vramtap.memory.process import ProcessSpace
from vramtap.pages import NO_PAGES, PageRuns
from vramtap.tap.tap import Tap
from vramtap.trackers.base import AllDirty, Reason
from vramtap.trackers.userfault.hybrid import HybridTracker

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from vramtap.keyboard.events import Input

# No wake-up without a write


def test_armed_tracker_is_silent_without_writes(armed: Armed) -> None:
    for _ in range(20):
        assert not armed.wakes(0)
        assert armed.scan() == NO_PAGES
        assert armed.tracker.armed
    assert armed.called == 0
    assert armed.is_current()


def test_reads_do_not_wake(armed: Armed) -> None:
    assert armed.is_current()
    assert not armed.wakes(0)
    assert armed.scan() == NO_PAGES


def test_stopped_target_does_not_wake_until_it_writes(armed: Armed) -> None:
    armed.scribe.stop()
    assert not armed.wakes(0)
    assert armed.scan() == NO_PAGES
    os.kill(armed.scribe.pid, signal.SIGCONT)
    armed.scribe.write(3, 4)
    assert armed.collect_all_dirty().reason is Reason.WOKEN


# The first write


@pytest.mark.parametrize("offset", [0, 17 * PAGE + 5, PAGES * PAGE - 1])
def test_first_write_wakes_and_all_pages_are_dirty(armed: Armed, offset: int) -> None:
    armed.scribe.write(offset, 9)
    assert armed.collect_all_dirty() == AllDirty(Reason.WOKEN)
    assert armed.mine[offset] == 9
    assert armed.is_current()


def test_tracker_can_be_armed_and_woken_repeatedly(armed: Armed) -> None:
    for number in range(1, 30):
        armed.scribe.write(number * 2 * PAGE, number)
        assert armed.collect_all_dirty().reason is Reason.WOKEN
        assert armed.is_current()
        # Not armed: the log reports the next write.
        armed.scribe.write(number * PAGE, number + 100)
        assert armed.scan() == PageRuns([(number, number + 1)])
        assert armed.is_current()
        armed.start()


def test_all_writes_before_the_wake_up_are_seen(armed: Armed) -> None:
    for page in range(PAGES):
        armed.scribe.write(page * PAGE + page, page + 1)
    assert armed.collect_all_dirty().reason is Reason.WOKEN
    assert armed.is_current()


def test_write_after_the_wake_up_is_in_the_log(armed: Armed) -> None:
    armed.scribe.write(PAGE, 1)
    armed.collect_all_dirty()
    armed.scribe.write(PAGE, 2)
    answer = armed.tracker.collect()
    assert answer == PageRuns([(1, 2)])


def test_write_by_the_kernel_wakes(armed: Armed) -> None:
    armed.scribe.read_file_into(12 * PAGE)
    assert armed.collect_all_dirty().reason is Reason.WOKEN
    assert (armed.mine[12 * PAGE : 13 * PAGE] == KERNEL_BYTE).all()
    assert armed.is_current()


def test_two_writers_at_once_are_both_released(armed: Armed) -> None:
    for number in range(1, 11):
        armed.scribe.begin_two_writes(number * PAGE, (PAGES - number) * PAGE, number)
        armed.scribe.finish()
        assert armed.collect_all_dirty().reason is Reason.WOKEN
        assert armed.is_current()
        armed.start()


def test_write_of_the_parent_wakes_after_a_fork(armed: Armed) -> None:
    armed.scribe.write(PAGE, 1)
    armed.collect_all_dirty()
    armed.start()
    armed.scribe.protect_forks()
    assert armed.scan() == NO_PAGES
    armed.scribe.write(PAGE, 2)
    assert armed.collect_all_dirty().reason is Reason.WOKEN
    assert armed.is_current()


# Memory that changes without a write


@pytest.mark.parametrize("span", [(0, PAGES), (10, 20), (63, 64)])
def test_replaced_memory_wakes_and_is_tracked_again(armed: Armed, span: tuple[int, int]) -> None:
    armed.scribe.write(11 * PAGE, 7)
    armed.collect_all_dirty()
    armed.start()
    armed.scribe.replace(*span)
    armed.collect_all_dirty()
    assert armed.is_current()
    armed.start()
    armed.scribe.write((span[1] - 1) * PAGE, 3)
    assert armed.collect_all_dirty().reason is Reason.WOKEN
    assert armed.is_current()


@pytest.mark.parametrize("span", [(0, 1), (10, 20), (63, 64)])
def test_unmapped_memory_wakes_and_never_gives_an_empty_answer(armed: Armed, span: tuple[int, int]) -> None:
    armed.scribe.unmap(*span)
    assert armed.wakes()
    for _ in range(3):
        answer = armed.tracker.collect()
        assert isinstance(answer, AllDirty)
        assert answer.reason is Reason.UNMAPPED
        assert not armed.tracker.armed
    armed.scribe.replace(*span)
    assert isinstance(armed.scan(), AllDirty)
    armed.start()
    armed.scribe.write(span[0] * PAGE, 3)
    assert armed.collect_all_dirty().reason is Reason.WOKEN
    assert armed.is_current()


def test_extent_unmapped_as_a_whole_is_logged_once_it_is_mapped_again(armed: Armed) -> None:
    armed.scribe.unmap(0, PAGES)
    assert armed.wakes()
    answer = armed.tracker.collect()
    assert isinstance(answer, AllDirty)
    assert answer.reason is Reason.UNMAPPED
    armed.scribe.replace(0, PAGES)
    assert isinstance(armed.scan(), AllDirty)
    armed.scribe.write(7 * PAGE, 3)
    armed.scan()
    assert armed.mine[7 * PAGE] == 3
    assert armed.is_current()


def test_madvise_dontneed_wakes(armed_anonymous: Armed) -> None:
    armed = armed_anonymous
    armed.scribe.write(11 * PAGE, 7)
    armed.collect_all_dirty()
    armed.start()
    armed.scribe.give_back(10, 20)
    armed.collect_all_dirty()
    # The event comes before the pages are freed. Pages freed after the scan are in the log's next answer.
    armed.scan()
    assert armed.mine[11 * PAGE] == 0
    assert armed.is_current()


@pytest.mark.parametrize("span", [(0, 1), (10, 20), (1, PAGES)])
def test_moved_memory_wakes_and_is_unprotected(armed: Armed, span: tuple[int, int]) -> None:
    place = armed.scribe.move(*span)
    assert armed.wakes()
    answer = armed.tracker.collect()
    assert isinstance(answer, AllDirty)
    assert answer.reason is Reason.UNMAPPED
    size = (span[1] - span[0]) * PAGE
    assert not [r for r in protected(armed.scribe.pid) if r[0] < place + size and place < r[1]]
    armed.stop_watchdog()
    armed.scribe.write_elsewhere(0, 1)


def test_extent_moved_as_a_whole_is_unprotected(armed: Armed) -> None:
    place = armed.scribe.move(0, PAGES)
    assert armed.wakes()
    answer = armed.tracker.collect()
    assert isinstance(answer, AllDirty)
    assert answer.reason is Reason.UNMAPPED
    assert not protected(armed.scribe.pid), hex(place)
    armed.scribe.write_elsewhere(0, 1)


def test_memory_moved_while_the_watchdog_is_stopped_is_unprotected(armed: Armed) -> None:
    """Mremap causes two events and waits until both are read; collect reads them."""
    armed.stop_watchdog()
    armed.scribe.begin_move(10, 20)
    assert armed.wakes()
    until_s = time.monotonic() + WAIT_MS / 1000
    while not armed.scribe.answers():
        assert isinstance(armed.tracker.collect(), AllDirty)
        assert time.monotonic() < until_s, "the moving thread is still suspended"
    armed.scribe.finish_move()
    armed.scribe.write_elsewhere(0, 1)


def test_memory_replaced_by_an_ordinary_file_is_logged_and_never_armed(armed: Armed, tmp_path: Path) -> None:
    path = tmp_path / "ordinary"
    path.write_bytes(bytes(10 * PAGE))
    armed.scribe.replace_by_file(10, 20, str(path))
    armed.collect_all_dirty()
    for page in (5, 11, 40):
        armed.scribe.write(page * PAGE, 3)
        assert armed.scan() == PageRuns([(page, page + 1)])
    for _ in range(5):
        armed.scan()
        assert not armed.tracker.armed
    assert "UFFDIO" in armed.tracker.unarmable
    assert armed.is_current()


def test_extent_with_a_hole_outside_the_window_is_not_armed() -> None:
    """Memory that is mapped into the hole later is not protected, so its writes would be missed."""
    with anonymous() as scribe, attached(scribe) as armed:
        armed.scan()
        armed.scribe.unmap(20, 30)
        for _ in range(4):
            armed.scan((0, 10))
        assert isinstance(armed.tracker.collect((20, 30)), AllDirty)
        armed.scan((0, 10))
        armed.scribe.replace(20, 30)
        armed.scribe.write(25 * PAGE, 8)
        armed.scan()
        assert armed.mine[25 * PAGE] == 8
        armed.scribe.write(25 * PAGE, 9)
        armed.scan()
        assert armed.mine[25 * PAGE] == 9


# Collecting while armed


def test_restored_pages_are_reported_again_while_armed(armed: Armed) -> None:
    runs = PageRuns([(3, 5), (9, 10)])
    armed.tracker.restore(runs)
    assert not armed.wakes(0)
    assert armed.called == 1
    assert armed.scan((0, 4)) == PageRuns([(3, 4)])
    assert armed.scan() == PageRuns([(4, 5), (9, 10)])
    assert armed.scan() == NO_PAGES
    assert armed.tracker.armed
    armed.scribe.write(0, 1)
    assert armed.collect_all_dirty().reason is Reason.WOKEN


def test_each_window_is_all_dirty_once_after_arming_and_after_waking() -> None:
    with anonymous() as scribe, attached(scribe) as armed:
        armed.scan()
        while not armed.tracker.armed:
            answer = armed.scan((0, 8))
        assert answer == AllDirty(Reason.ARMED)
        assert armed.scan((0, 8)) == NO_PAGES
        assert armed.scan((4, 16)) == AllDirty(Reason.ARMED)
        assert armed.scan((8, 16)) == NO_PAGES
        assert armed.tracker.armed
        scribe.write(30 * PAGE, 5)
        assert armed.scan((0, 8)) == AllDirty(Reason.WOKEN)
        assert armed.scan((24, 32)) == AllDirty(Reason.WOKEN)
        assert armed.mine[30 * PAGE] == 5
        assert armed.scan() == AllDirty(Reason.WOKEN)
        assert armed.is_current()


def test_write_outside_the_window_wakes(armed: Armed) -> None:
    armed.scribe.write(40 * PAGE, 1)
    assert armed.scan((0, 8)) == AllDirty(Reason.WOKEN)
    assert armed.scan((32, 48)) == AllDirty(Reason.WOKEN)
    assert armed.mine[40 * PAGE] == 1


# A tap


class StillTarget:
    """A scribe's memory as a target with a fixed mode."""

    url = "scribe:"
    input: Input | None = None
    tolerates_injection = False
    announces_mode = True

    def __init__(self, extent: Extent) -> None:
        self.extent = extent

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        return

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        return lambda: None

    async def mode(self) -> Mode:
        return Mode(PAGE // 4, self.extent.pages, PAGE)

    async def snapshot(self) -> NDArray[np.uint32]:
        raise NotImplementedError

    async def gone(self) -> str:
        never: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        return await never


async def test_one_refresh_of_a_tap_shows_all_writes_since_it_was_armed() -> None:
    with anonymous(1024) as scribe:
        space = ProcessSpace(scribe.pid)
        async with Tap(StillTarget(Extent(space, scribe.address, scribe.pages)), "hybrid") as tap:
            tracker = tap._tracker
            assert isinstance(tracker, HybridTracker)
            for number in range(1, 6):
                async with asyncio.timeout(WAIT_MS / 1000):
                    while not tracker.armed:
                        await tap.refresh()
                for page in (2, 500, 1023):
                    scribe.write(page * PAGE, number)
                await tap.refresh()
                assert tap.screen.pixels[[2, 500, 1023], 0].tolist() == [number] * 3
        space.close()
