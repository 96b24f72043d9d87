"""Tracker `dirtybits` on a modelled CPU: each reason, what follows it, and what it must not be fooled by."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np
import pytest

from support.paged_soft_guest import DATA, FRAMES, OFFSET, PAGES, SCREEN, TABLES, PagedGuest
from support.soft_mmu import DIRTY, FRAME, LARGE, PRESENT, SoftCpu, Tables
from support.two_steps import InTwoSteps
from vramtap.errors import TargetGone, VramtapError
from vramtap.machine.cpu import Registers
from vramtap.machine.layout import VRAM_BASE
from vramtap.machine.paging_reverse import MAX_TABLES, mappings
from vramtap.memory.own import extent_of
from vramtap.pages import PageRuns
from vramtap.trackers.base import AllDirty, Reason
from vramtap.trackers.machine.dirtybits import MAX_RETRY_COLLECTS, DirtyBitsTracker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vramtap.trackers.machine.known_tables import KnownTables

ALIAS = SCREEN + 64 * FRAME
"""Covered by the same table as the screen."""


@pytest.fixture
def guest() -> PagedGuest:
    return PagedGuest()


@pytest.fixture
def tracker(guest: PagedGuest) -> Iterator[DirtyBitsTracker]:
    tracker = DirtyBitsTracker()
    tracker.start(guest.extent)
    assert tracker.collect() == AllDirty(Reason.FIRST)
    yield tracker
    tracker.stop()


def reason(answer: PageRuns | AllDirty) -> Reason:
    assert isinstance(answer, AllDirty), answer
    return answer.reason


def test_pages_drawn_are_named_and_nothing_else(guest: PagedGuest, tracker: DirtyBitsTracker) -> None:
    guest.draw(1)
    guest.draw(2)
    guest.draw(7)
    guest.cpu.store(DATA, 5)
    guest.cpu.load(SCREEN + 4 * FRAME)
    assert tracker.collect() == PageRuns([(1, 3), (7, 8)])
    assert tracker.collect() == PageRuns()
    assert tracker.virtual == SCREEN


def test_pages_drawn_again_are_named_again(guest: PagedGuest, tracker: DirtyBitsTracker) -> None:
    for _ in range(3):
        guest.draw(3)
        guest.draw(3)
        assert tracker.collect() == PageRuns([(3, 4)])


def test_the_translations_are_forgotten_only_when_something_was_cleared(
    guest: PagedGuest, tracker: DirtyBitsTracker
) -> None:
    flushes, walks = guest.cpu.flushes, tracker.walks
    tracker.collect()
    assert guest.cpu.flushes == flushes
    guest.draw(0)
    tracker.collect()
    assert (guest.cpu.flushes, tracker.walks) == (flushes + 1, walks)
    assert len(tracker.stops_us) == 3


def test_what_devices_store_is_named(guest: PagedGuest, tracker: DirtyBitsTracker) -> None:
    guest.memory.wrote(0, OFFSET * FRAME)
    assert tracker.collect() == PageRuns()
    guest.memory.wrote((OFFSET - 3) * FRAME, 4 * FRAME + 1)
    guest.draw(5)
    guest.memory.wrote((OFFSET + PAGES) * FRAME - 1, 2)
    assert tracker.collect() == PageRuns([(0, 2), (5, 6), (7, 8)])


def test_what_one_window_leaves_is_kept_for_the_next(guest: PagedGuest, tracker: DirtyBitsTracker) -> None:
    guest.draw(1)
    guest.draw(6)
    assert tracker.collect((0, 4)) == PageRuns([(1, 2)])
    guest.draw(1)
    assert tracker.collect((4, 8)) == PageRuns([(6, 7)])
    assert tracker.collect() == PageRuns([(1, 2)])


# Aliases


def test_a_second_mapping_is_aliased_until_it_is_gone(guest: PagedGuest, tracker: DirtyBitsTracker) -> None:
    guest.map(ALIAS, FRAMES + 3 * FRAME)
    assert reason(tracker.collect()) is Reason.ALIASED
    walks = tracker.walks
    for _ in range(3):
        guest.draw(3)
        guest.draw(0, ALIAS)
        assert tracker.collect() == AllDirty(Reason.ALIASED, "more than one entry maps page 3")
    assert tracker.walks == walks, "nothing wrote the tables"
    guest.unmap(ALIAS)
    assert reason(tracker.collect()) is Reason.ALIASED
    guest.draw(3)
    assert tracker.collect() == PageRuns([(3, 4)])


def test_pages_beside_an_alias_are_still_named_exactly(guest: PagedGuest, tracker: DirtyBitsTracker) -> None:
    guest.map(ALIAS, FRAMES + 7 * FRAME)
    tracker.collect()
    guest.draw(1)
    guest.draw(0, ALIAS)
    assert tracker.collect((0, 4)) == PageRuns([(1, 2)])
    assert reason(tracker.collect((4, 8))) is Reason.ALIASED


def test_an_alias_outside_the_window_is_in_doubt_when_it_is_asked_for(
    guest: PagedGuest, tracker: DirtyBitsTracker
) -> None:
    guest.map(ALIAS, FRAMES + 7 * FRAME)
    tracker.collect()
    guest.draw(0, ALIAS)
    guest.unmap(ALIAS)
    assert reason(tracker.collect((0, 4))) is Reason.ALIASED
    assert tracker.collect((0, 4)) == PageRuns()
    assert reason(tracker.collect((4, 8))) is Reason.ALIASED
    assert tracker.collect() == PageRuns()


class TrustsTheLastWalk(DirtyBitsTracker):
    """What must not be done: to take the entries found once for all that there are."""

    def _tables_changed(self, known: KnownTables, words: NDArray[np.uint64], stored: PageRuns) -> bool:
        return False


class LooksAtTheTables(DirtyBitsTracker):
    """Neither must this: to look for aliases in the tables as they are when it is asked."""

    def _tables_changed(self, known: KnownTables, words: NDArray[np.uint64], stored: PageRuns) -> bool:
        found = mappings(self._machine.memory, known.root, self._frame, len(self._pending))
        return len(found.leaves.entry) != len(known.page)


@pytest.mark.parametrize("how", ["stays", "comes and goes"])
@pytest.mark.parametrize("kind", [TrustsTheLastWalk, LooksAtTheTables, DirtyBitsTracker])
def test_who_ignores_an_alias_loses_pages(kind: type[DirtyBitsTracker], how: str) -> None:
    guest = PagedGuest()
    tracker = kind()
    tracker.start(guest.extent)
    tracker.collect()
    mine = guest.memory.vram.copy()
    guest.draw(1)
    guest.map(ALIAS, FRAMES + 5 * FRAME)
    guest.draw(0, ALIAS)
    if how == "comes and goes":
        guest.unmap(ALIAS)
    answer = tracker.collect()
    runs = PageRuns.full(PAGES) if isinstance(answer, AllDirty) else answer
    tracker.read_from.read(runs, mine[OFFSET * FRAME :])
    lost = not np.array_equal(mine, guest.memory.vram)
    sees = {DirtyBitsTracker: True, LooksAtTheTables: how == "stays", TrustsTheLastWalk: False}
    assert lost is not sees[kind]
    tracker.stop()


def test_an_alias_in_tables_of_its_own_is_seen(guest: PagedGuest, tracker: DirtyBitsTracker) -> None:
    other = 0x7F00_0000_0000
    pt, pd, pdpt = TABLES + 29 * FRAME, TABLES + 30 * FRAME, TABLES + 31 * FRAME
    guest.cpu.store(pt, FRAMES + 2 * FRAME | 3)
    guest.cpu.store(pd, pt | 3)
    guest.cpu.store(pdpt, pd | 3)
    assert tracker.collect() == PageRuns(), "no table yet: data"
    guest.set_entry(other, pdpt | 3, level=4)
    guest.draw(0, other)
    guest.set_entry(other, 0, level=4)
    assert tracker.collect() == AllDirty(
        Reason.ALIASED, "the guest wrote its page tables since the last scan"
    )


def test_an_alias_of_a_table_is_watched_too(guest: PagedGuest, tracker: DirtyBitsTracker) -> None:
    table = guest.tables.entry(SCREEN) // FRAME * FRAME
    guest.map(ALIAS, table)
    assert reason(tracker.collect()) is Reason.ALIASED
    assert tracker.collect() == PageRuns()
    there = ALIAS + guest.tables.entry(ALIAS + FRAME) % FRAME
    guest.cpu.store(there, FRAMES | 3)
    guest.draw(0, ALIAS + FRAME)
    guest.cpu.store(there, 0)
    assert reason(tracker.collect()) is Reason.ALIASED


def test_a_mapping_that_only_the_tlb_remembers_is_forgotten(
    guest: PagedGuest, tracker: DirtyBitsTracker
) -> None:
    guest.map(ALIAS, FRAMES + 4 * FRAME)
    guest.draw(0, ALIAS)
    guest.cpu.store(guest.tables.entry(ALIAS), 0)  # and no INVLPG
    assert reason(tracker.collect()) is Reason.ALIASED
    assert ALIAS >> 12 not in guest.cpu.tlb


def test_an_entry_that_goes_with_its_own_dirty_bit_is_missed_by_nobody(guest: PagedGuest) -> None:
    # The last store takes away the entry that it is made through.
    tracker = DirtyBitsTracker()
    mine = guest.tables.entry(guest.tables.entry(DATA) // FRAME * FRAME)
    tracker.start(guest.extent)
    tracker.collect()
    guest.draw(2)
    guest.cpu.store(mine, 0)
    assert not int(guest.memory.words(mine, 1)[0]) & DIRTY
    assert reason(tracker.collect()) is Reason.ALIASED
    tracker.stop()


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
    assert reason(tracker.collect()) is Reason.UNMAPPED, "a device has cleared the table"


def test_a_table_in_the_extent_is_always_in_doubt(guest: PagedGuest, tracker: DirtyBitsTracker) -> None:
    guest.set_entry(SCREEN + (1 << 21), FRAMES + 6 * FRAME | 3, level=2)
    assert reason(tracker.collect()) is Reason.ALIASED
    assert tracker.collect((6, 7)) == AllDirty(
        Reason.ALIASED, "page 6 is a page table, which the CPU itself writes"
    )
    guest.draw(1)
    assert tracker.collect((0, 6)) == PageRuns([(1, 2)])


def test_frames_that_are_tables_no_more_are_left_alone(guest: PagedGuest, tracker: DirtyBitsTracker) -> None:
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


def test_a_large_page_is_told_and_left_behind(guest: PagedGuest, tracker: DirtyBitsTracker) -> None:
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


def test_a_large_page_beside_a_small_one_is_an_alias(guest: PagedGuest, tracker: DirtyBitsTracker) -> None:
    guest.set_entry(SCREEN + (1 << 30), VRAM_BASE & -(1 << 30) | 3 | LARGE, level=3)
    assert reason(tracker.collect()) is Reason.ALIASED


def test_an_extent_that_is_nowhere_is_unmapped(guest: PagedGuest, tracker: DirtyBitsTracker) -> None:
    guest.unmap(SCREEN, PAGES)
    for _ in range(2):
        assert tracker.collect() == AllDirty(Reason.UNMAPPED, "the guest maps no page of it")
    assert tracker.virtual is None
    guest.map(SCREEN, FRAMES, PAGES)
    assert reason(tracker.collect()) is Reason.REMAPPED
    guest.draw(1)
    assert tracker.collect() == PageRuns([(1, 2)])


def test_pages_that_are_not_mapped_are_not_dirty(guest: PagedGuest, tracker: DirtyBitsTracker) -> None:
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


def test_a_framebuffer_that_moves_is_followed(guest: PagedGuest, tracker: DirtyBitsTracker) -> None:
    guest.unmap(SCREEN, PAGES)
    guest.map(ALIAS, FRAMES, PAGES)
    guest.draw(1, ALIAS)
    assert tracker.collect() == AllDirty(Reason.REMAPPED, f"page 0 is now mapped at {ALIAS:#x}")
    guest.draw(2, ALIAS)
    assert tracker.collect() == PageRuns([(2, 3)])
    assert tracker.virtual == ALIAS


def test_other_page_tables_are_followed(guest: PagedGuest, tracker: DirtyBitsTracker) -> None:
    other = Tables(guest.memory, 0x20_0000)
    other.map(SCREEN, FRAMES, PAGES)
    guest.cpu.load_cr3(other.root | 0x18)
    guest.draw(4)
    assert tracker.collect() == AllDirty(Reason.REMAPPED, "the guest loaded the page tables at 0x200000")
    guest.draw(5)
    assert tracker.collect() == PageRuns([(5, 6)])
    guest.cpu.load_cr3(other.root)
    assert tracker.collect() == PageRuns(), "flags of CR3 are no other tables"


def test_tables_beside_data_in_one_page_are_always_in_doubt(guest: PagedGuest) -> None:
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
    assert tracker.collect() == PageRuns(), "it stored nothing"
    tracker.stop()


def test_too_many_tables_are_looked_at_ever_less_often(guest: PagedGuest) -> None:
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


def test_a_table_that_is_no_memory_of_ours_is_in_doubt(guest: PagedGuest, tracker: DirtyBitsTracker) -> None:
    guest.set_entry(SCREEN + (1 << 21), 0x7FFF_0000 | 3, level=2)
    answer = tracker.collect()
    assert isinstance(answer, AllDirty)
    assert (answer.reason, "outside RAM" in answer.detail) == (Reason.ALIASED, True)
    guest.set_entry(SCREEN + (1 << 21), 0, level=2)
    while isinstance(tracker.collect(), AllDirty):
        assert tracker.walks < 5
    guest.draw(1)
    assert tracker.collect() == PageRuns([(1, 2)])


def test_other_tables_that_come_and_go_leave_no_trace(guest: PagedGuest, tracker: DirtyBitsTracker) -> None:
    # A limit that is told; not what anybody wants.
    other = Tables(guest.memory, 0x20_0000)
    other.map(SCREEN, FRAMES, PAGES)
    guest.cpu.load_cr3(other.root)
    guest.draw(1)
    guest.cpu.load_cr3(guest.tables.root)
    assert tracker.collect() == PageRuns()


def test_a_guest_that_clears_what_tells_of_it_leaves_no_trace(
    guest: PagedGuest, tracker: DirtyBitsTracker
) -> None:
    # A limit too: the last store into a table clears the dirty bit of the entry it is made through, while
    # the TLB remembers it as set.
    table = guest.tables.entry(SCREEN) // FRAME * FRAME
    through = guest.tables.entry(table)
    above = guest.tables.entry(through)
    guest.map(ALIAS, FRAMES + 2 * FRAME)
    guest.draw(0, ALIAS)
    guest.unmap(ALIAS)
    for entry in (through, above):
        guest.cpu.store(entry, int(guest.memory.words(entry, 1)[0]) & ~DIRTY)
    assert tracker.collect() == PageRuns()


# The CPU, and leaving


class NeverFlushes(SoftCpu):
    def flush_tlb(self) -> None:
        """The fault."""


@pytest.mark.parametrize("flushes", [True, False])
def test_without_the_flush_pages_are_lost(flushes: bool) -> None:
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
def test_a_clear_in_two_steps_needs_the_stop(stops: bool, does: str, monkeypatch: pytest.MonkeyPatch) -> None:
    guest = PagedGuest()
    there = guest.tables.entry(SCREEN + 3 * FRAME)

    def goes_on() -> None:
        if not guest.cpu.stopped:
            guest.draw(3)
            if does == "unmaps":
                guest.unmap(SCREEN + 3 * FRAME)

    tracker = InTwoSteps(goes_on)
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
        goes_on()
        answer = tracker.collect()
        assert answer == PageRuns([(3, 4)]) if does == "draws" else isinstance(answer, AllDirty)
    else:
        answer = tracker.collect()
        assert (answer == PageRuns()) is (does == "draws"), "page 3 was drawn, and nobody says so"
    mapped = bool(int(guest.memory.words(there, 1)[0]) & PRESENT)
    assert mapped is (does == "draws" or not stops), "what the guest took away is back"
    tracker.stop()


def test_disarming_gives_the_guest_its_dirty_bits_back(guest: PagedGuest) -> None:
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


def test_there_is_one_reader_of_a_machines_dirty_bits(guest: PagedGuest, tracker: DirtyBitsTracker) -> None:
    with pytest.raises(VramtapError, match=r"another tracker reads.*--tracker log"):
        DirtyBitsTracker().start(guest.extent)
    tracker.stop()
    other = DirtyBitsTracker()
    other.start(guest.extent)
    other.stop()


def test_a_tracker_that_was_forgotten_stands_in_nobodys_way(guest: PagedGuest) -> None:
    DirtyBitsTracker().start(guest.extent)
    tracker = DirtyBitsTracker()
    tracker.start(guest.extent)
    tracker.stop()


def test_memory_of_no_machine_is_refused() -> None:
    with pytest.raises(VramtapError, match="not memory of the built-in VM"):
        DirtyBitsTracker().start(extent_of(np.zeros(2 * FRAME, dtype=np.uint8))[0])


def test_the_end_of_the_machine_is_said_and_can_be_disarmed(
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


def test_a_look_that_fails_is_followed_by_everything(
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


def test_it_must_be_asked(tracker: DirtyBitsTracker) -> None:
    assert tracker.wake(lambda: None) is None
