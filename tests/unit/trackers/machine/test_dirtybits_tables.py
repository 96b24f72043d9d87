"""Tracker `dirtybits` on a modelled CPU: unusual page tables, large pages, mappings that move or end."""

from __future__ import annotations

import numpy as np

from support.dirtybits import reason
from support.paged_soft_guest import DATA, FRAMES, OFFSET, PAGES, SCREEN, PagedGuest
from support.soft_mmu import DIRTY, FRAME, LARGE, Tables
from vramtap.machine.layout import VRAM_BASE
from vramtap.machine.paging_reverse import MAX_TABLES
from vramtap.pages import PageRuns
from vramtap.trackers.base import AllDirty, Reason
from vramtap.trackers.machine.dirtybits import MAX_RETRY_COLLECTS, DirtyBitsTracker

ALIAS = SCREEN + 64 * FRAME
"""Second address of the screen, covered by the same page table."""


# Tables in unusual places


def test_tables_in_video_ram_are_watched(guest: PagedGuest, tracker: DirtyBitsTracker) -> None:
    inside = VRAM_BASE + 2 * FRAME
    guest.map(DATA, inside)
    old = guest.tables.entry(SCREEN) // FRAME * FRAME
    for index in range(512):
        guest.cpu.store(DATA + index * 8, int(guest.memory.words(old + index * 8, 1)[0]))
    guest.set_entry(SCREEN, inside | 3, level=2)
    assert reason(tracker.collect()) is Reason.ALIASED
    guest.draw(3)
    assert tracker.collect() == PageRuns([(3, 4)])
    alias = inside + guest.tables.entry(ALIAS) % FRAME
    guest.cpu.store(DATA + alias % FRAME, FRAMES | 3)
    guest.draw(0, ALIAS)
    guest.cpu.store(DATA + alias % FRAME, 0)
    guest.cpu.invalidate(ALIAS)
    assert reason(tracker.collect()) is Reason.ALIASED
    guest.memory.vram[2 * FRAME : 3 * FRAME] = 0
    guest.memory.wrote(2 * FRAME, FRAME)
    assert reason(tracker.collect()) is Reason.UNMAPPED, "a device cleared the table"


def test_table_in_the_extent_stays_in_doubt(guest: PagedGuest, tracker: DirtyBitsTracker) -> None:
    guest.set_entry(SCREEN + (1 << 21), FRAMES + 6 * FRAME | 3, level=2)
    assert reason(tracker.collect()) is Reason.ALIASED
    assert tracker.collect((6, 7)) == AllDirty(
        Reason.ALIASED, "page 6 is a page table, which the CPU itself writes"
    )
    guest.draw(1)
    assert tracker.collect((0, 6)) == PageRuns([(1, 2)])


def test_former_tables_are_not_written(guest: PagedGuest, tracker: DirtyBitsTracker) -> None:
    table = guest.tables.entry(SCREEN) // FRAME * FRAME
    guest.draw(0)
    guest.set_entry(SCREEN, 0, level=2)
    data = (1 << 64) - 1
    for index in range(512):
        guest.cpu.store(table + index * 8, data)
    assert reason(tracker.collect()) is Reason.UNMAPPED
    tracker.stop()
    assert (guest.memory.words(table, 512) == np.uint64(data)).all()


# Large pages, nothing mapped, moved


def test_large_page_is_reported_until_replaced(guest: PagedGuest, tracker: DirtyBitsTracker) -> None:
    table = int(guest.memory.words(guest.tables.entry(SCREEN, 2), 1)[0])
    guest.set_entry(SCREEN, VRAM_BASE | 3 | LARGE, level=2)
    answer = tracker.collect()
    assert answer == AllDirty(Reason.LARGE_PAGE, "a large page maps page 0")
    guest.draw(2, SCREEN + OFFSET * FRAME)
    assert reason(tracker.collect((2, 3))) is Reason.LARGE_PAGE
    guest.set_entry(SCREEN, table, level=2)
    assert reason(tracker.collect()) in (Reason.REMAPPED, Reason.ALIASED)
    guest.draw(2)
    assert tracker.collect() == PageRuns([(2, 3)])


def test_large_and_small_mapping_of_a_page_is_an_alias(guest: PagedGuest, tracker: DirtyBitsTracker) -> None:
    guest.set_entry(SCREEN + (1 << 30), VRAM_BASE & -(1 << 30) | 3 | LARGE, level=3)
    assert reason(tracker.collect()) is Reason.ALIASED


def test_unmapped_extent_is_all_dirty(guest: PagedGuest, tracker: DirtyBitsTracker) -> None:
    guest.unmap(SCREEN, PAGES)
    for _ in range(2):
        assert tracker.collect() == AllDirty(Reason.UNMAPPED, "the guest maps no page of it")
    assert tracker.virtual is None
    guest.map(SCREEN, FRAMES, PAGES)
    assert reason(tracker.collect()) is Reason.REMAPPED
    guest.draw(1)
    assert tracker.collect() == PageRuns([(1, 2)])


def test_unmapped_pages_are_not_dirty(guest: PagedGuest, tracker: DirtyBitsTracker) -> None:
    guest.unmap(SCREEN + 4 * FRAME, 4)
    assert tracker.collect() == AllDirty(Reason.UNMAPPED, "page 4 is no longer mapped")
    guest.draw(1)
    guest.memory.wrote((OFFSET + 6) * FRAME, 1)
    assert tracker.collect() == PageRuns([(1, 2), (6, 7)])
    guest.map(ALIAS, FRAMES + 5 * FRAME)
    guest.draw(0, ALIAS)
    assert reason(tracker.collect()) is Reason.ALIASED
    guest.draw(0, ALIAS)
    assert tracker.collect() == PageRuns([(5, 6)])


def test_moved_framebuffer_is_followed(guest: PagedGuest, tracker: DirtyBitsTracker) -> None:
    guest.unmap(SCREEN, PAGES)
    guest.map(ALIAS, FRAMES, PAGES)
    guest.draw(1, ALIAS)
    assert tracker.collect() == AllDirty(Reason.REMAPPED, f"page 0 is now mapped at {ALIAS:#x}")
    guest.draw(2, ALIAS)
    assert tracker.collect() == PageRuns([(2, 3)])
    assert tracker.virtual == ALIAS


def test_loading_other_tables_is_followed(guest: PagedGuest, tracker: DirtyBitsTracker) -> None:
    other = Tables(guest.memory, 0x20_0000)
    other.map(SCREEN, FRAMES, PAGES)
    guest.cpu.load_cr3(other.root | 0x18)
    guest.draw(4)
    assert tracker.collect() == AllDirty(Reason.REMAPPED, "the guest loaded the page tables at 0x200000")
    guest.draw(5)
    assert tracker.collect() == PageRuns([(5, 6)])
    guest.cpu.load_cr3(other.root)
    assert tracker.collect() == PageRuns(), "other flags of CR3 do not mean other tables"


def test_tables_and_data_in_one_large_page_stay_in_doubt(guest: PagedGuest) -> None:
    other = Tables(guest.memory, 0x20_0000)
    other.map(SCREEN, FRAMES, PAGES)
    other.map_large(0x20_0000, 0x20_0000)
    guest.cpu.load_cr3(other.root)
    tracker = DirtyBitsTracker()
    tracker.start(guest.extent)
    tracker.collect()
    for _ in range(3):
        guest.cpu.store(0x30_0000, 7)
        assert reason(tracker.collect()) is Reason.ALIASED
    assert tracker.collect() == PageRuns(), "the guest stored nothing"
    tracker.stop()


def test_too_many_tables_are_walked_less_and_less_often(guest: PagedGuest) -> None:
    other = Tables(guest.memory, 0x40_0000)
    for number in range(MAX_TABLES + 10):
        other.entry(number << 21)
    other.map(SCREEN, FRAMES, PAGES)
    guest.cpu.load_cr3(other.root)
    tracker = DirtyBitsTracker()
    tracker.start(guest.extent)
    for _ in range(3 * MAX_RETRY_COLLECTS):
        answer = tracker.collect()
        assert isinstance(answer, AllDirty)
        assert (answer.reason, "page tables" in answer.detail) == (Reason.ALIASED, True)
    assert 3 < tracker.walks < 12
    guest.cpu.load_cr3(guest.tables.root)
    for _ in range(MAX_RETRY_COLLECTS + 1):
        assert isinstance(tracker.collect(), AllDirty)
        if tracker.virtual is not None:
            break
    guest.draw(0)
    assert tracker.collect() == PageRuns([(0, 1)])
    tracker.stop()


def test_table_outside_memory_is_in_doubt(guest: PagedGuest, tracker: DirtyBitsTracker) -> None:
    guest.set_entry(SCREEN + (1 << 21), 0x7FFF_0000 | 3, level=2)
    answer = tracker.collect()
    assert isinstance(answer, AllDirty)
    assert (answer.reason, "outside RAM" in answer.detail) == (Reason.ALIASED, True)
    guest.set_entry(SCREEN + (1 << 21), 0, level=2)
    while isinstance(tracker.collect(), AllDirty):
        assert tracker.walks < 5
    guest.draw(1)
    assert tracker.collect() == PageRuns([(1, 2)])


def test_limit_tables_loaded_between_scans_leave_no_trace(
    guest: PagedGuest, tracker: DirtyBitsTracker
) -> None:
    # A documented limit, not a wanted behaviour.
    other = Tables(guest.memory, 0x20_0000)
    other.map(SCREEN, FRAMES, PAGES)
    guest.cpu.load_cr3(other.root)
    guest.draw(1)
    guest.cpu.load_cr3(guest.tables.root)
    assert tracker.collect() == PageRuns()


def test_limit_guest_that_clears_its_dirty_bits_leaves_no_trace(
    guest: PagedGuest, tracker: DirtyBitsTracker
) -> None:
    # Another documented limit: the last store into a table clears the dirty bit of the entry through which it
    # is made, while the TLB remembers the bit as set.
    table = guest.tables.entry(SCREEN) // FRAME * FRAME
    through = guest.tables.entry(table)
    above = guest.tables.entry(through)
    guest.map(ALIAS, FRAMES + 2 * FRAME)
    guest.draw(0, ALIAS)
    guest.unmap(ALIAS)
    for entry in (through, above):
        guest.cpu.store(entry, int(guest.memory.words(entry, 1)[0]) & ~DIRTY)
    assert tracker.collect() == PageRuns()
