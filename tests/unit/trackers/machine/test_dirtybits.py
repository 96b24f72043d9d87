"""Tracker `dirtybits` on a modelled CPU: exact pages, what the CPU must do, and starting and stopping."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np
import pytest

from support.paged_soft_guest import DATA, FRAMES, OFFSET, PAGES, SCREEN, PagedGuest
from support.soft_mmu import FRAME, PRESENT, SoftCpu
from support.two_steps import InTwoSteps
from vramtap.errors import TargetGone, VramtapError
from vramtap.machine.cpu import Registers
from vramtap.memory.own import extent_of
from vramtap.pages import PageRuns
from vramtap.trackers.base import AllDirty
from vramtap.trackers.machine.dirtybits import DirtyBitsTracker

if TYPE_CHECKING:
    from collections.abc import Iterator


ALIAS = SCREEN + 64 * FRAME
"""Second address of the screen, covered by the same page table."""


def test_written_pages_are_reported_exactly(guest: PagedGuest, tracker: DirtyBitsTracker) -> None:
    guest.draw(1)
    guest.draw(2)
    guest.draw(7)
    guest.cpu.store(DATA, 5)
    guest.cpu.load(SCREEN + 4 * FRAME)
    assert tracker.collect() == PageRuns([(1, 3), (7, 8)])
    assert tracker.collect() == PageRuns()
    assert tracker.virtual == SCREEN


def test_page_written_again_is_reported_again(guest: PagedGuest, tracker: DirtyBitsTracker) -> None:
    for _ in range(3):
        guest.draw(3)
        guest.draw(3)
        assert tracker.collect() == PageRuns([(3, 4)])


def test_tlb_is_flushed_only_after_clearing_a_bit(guest: PagedGuest, tracker: DirtyBitsTracker) -> None:
    flushes, walks = guest.cpu.flushes, tracker.walks
    tracker.collect()
    assert guest.cpu.flushes == flushes
    guest.draw(0)
    tracker.collect()
    assert (guest.cpu.flushes, tracker.walks) == (flushes + 1, walks)
    assert len(tracker.stops_us) == 3


def test_device_writes_are_reported(guest: PagedGuest, tracker: DirtyBitsTracker) -> None:
    guest.memory.wrote(0, OFFSET * FRAME)
    assert tracker.collect() == PageRuns()
    guest.memory.wrote((OFFSET - 3) * FRAME, 4 * FRAME + 1)
    guest.draw(5)
    guest.memory.wrote((OFFSET + PAGES) * FRAME - 1, 2)
    assert tracker.collect() == PageRuns([(0, 2), (5, 6), (7, 8)])


def test_pages_outside_the_window_are_kept(guest: PagedGuest, tracker: DirtyBitsTracker) -> None:
    guest.draw(1)
    guest.draw(6)
    assert tracker.collect((0, 4)) == PageRuns([(1, 2)])
    guest.draw(1)
    assert tracker.collect((4, 8)) == PageRuns([(6, 7)])
    assert tracker.collect() == PageRuns([(1, 2)])


# The CPU, starting and stopping


class NeverFlushes(SoftCpu):
    def flush_tlb(self) -> None:
        """Forgets to flush, which is the fault to detect."""


@pytest.mark.parametrize("flushes", [True, False])
def test_clear_without_flush_loses_pages(flushes: bool) -> None:
    guest = PagedGuest()
    if not flushes:
        guest.cpu = NeverFlushes(guest.memory, guest.cpu.cr3)
    tracker = DirtyBitsTracker()
    tracker.start(guest.extent)
    tracker.collect()
    guest.draw(1)
    assert tracker.collect() == PageRuns([(1, 2)])
    guest.draw(1)
    assert (tracker.collect() == PageRuns([(1, 2)])) is flushes


@pytest.mark.parametrize("stops", [True, False])
@pytest.mark.parametrize("does", ["draws", "unmaps"])
def test_non_atomic_clear_needs_a_stopped_cpu(
    stops: bool, does: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = PagedGuest()
    there = guest.tables.entry(SCREEN + 3 * FRAME)

    def run_on() -> None:
        if not guest.cpu.stopped:
            guest.draw(3)
            if does == "unmaps":
                guest.unmap(SCREEN + 3 * FRAME)

    tracker = InTwoSteps(run_on)
    tracker.start(guest.extent)
    tracker.collect()
    guest.draw(1)
    with monkeypatch.context() as patch:
        if not stops:
            patch.setattr(guest, "paused", contextlib.nullcontext)
            patch.setattr(guest.cpu, "flush_tlb", guest.cpu.tlb.clear)
            patch.setattr(guest.cpu, "registers", lambda: Registers(0, 0, 0, guest.cpu.cr3))
        assert tracker.collect() == PageRuns([(1, 2)])
    if stops:
        run_on()
        answer = tracker.collect()
        assert answer == PageRuns([(3, 4)]) if does == "draws" else isinstance(answer, AllDirty)
    else:
        answer = tracker.collect()
        assert (answer == PageRuns()) is (does == "draws"), "page 3 was written, and no answer reports it"
    mapped = bool(int(guest.memory.words(there, 1)[0]) & PRESENT)
    assert mapped is (does == "draws" or not stops), "the removed mapping is back"
    tracker.stop()


def test_stop_restores_the_guests_dirty_bits(guest: PagedGuest) -> None:
    tracker = DirtyBitsTracker()
    for page in range(3):
        guest.draw(page)
    before = guest.memory.ram.copy()
    tracker.start(guest.extent)
    tracker.collect()
    guest.draw(0)
    tracker.collect()
    guest.map(ALIAS + FRAME, FRAMES)
    guest.unmap(ALIAS + FRAME)
    tracker.collect()
    assert (before.view(np.uint64) & ~guest.memory.ram.view(np.uint64)).any()
    tracker.stop()
    lost = before.view(np.uint64) & ~guest.memory.ram.view(np.uint64)
    assert not lost.any()
    tracker.stop()


def test_second_tracker_is_refused(guest: PagedGuest, tracker: DirtyBitsTracker) -> None:
    with pytest.raises(VramtapError, match=r"another tracker reads.*--tracker log"):
        DirtyBitsTracker().start(guest.extent)
    tracker.stop()
    other = DirtyBitsTracker()
    other.start(guest.extent)
    other.stop()


def test_garbage_collected_tracker_does_not_block_another(guest: PagedGuest) -> None:
    DirtyBitsTracker().start(guest.extent)
    tracker = DirtyBitsTracker()
    tracker.start(guest.extent)
    tracker.stop()


def test_other_memory_is_refused() -> None:
    with pytest.raises(VramtapError, match="not memory of the built-in VM"):
        DirtyBitsTracker().start(extent_of(np.zeros(2 * FRAME, dtype=np.uint8))[0])


def test_collect_after_the_end_raises_and_stop_succeeds(
    guest: PagedGuest, tracker: DirtyBitsTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextlib.contextmanager
    def paused() -> Iterator[None]:
        raise TargetGone("machine", "guest", "the guest stopped")
        yield

    monkeypatch.setattr(guest, "paused", paused)
    with pytest.raises(TargetGone):
        tracker.collect()
    tracker.stop()


def test_failed_scan_is_followed_by_all_dirty(
    guest: PagedGuest, tracker: DirtyBitsTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> None:
        raise VramtapError("flush", "cpu", "broken for the test")

    guest.draw(1)
    with monkeypatch.context() as patch:
        patch.setattr(guest.cpu, "flush_tlb", fails)
        with pytest.raises(VramtapError, match="broken"):
            tracker.collect()
    assert isinstance(tracker.collect((0, 4)), AllDirty)
    assert isinstance(tracker.collect((4, 8)), AllDirty)
    guest.draw(1)
    assert tracker.collect() == PageRuns([(1, 2)])


def test_wake_is_none(tracker: DirtyBitsTracker) -> None:
    assert tracker.wake(lambda: None) is None
