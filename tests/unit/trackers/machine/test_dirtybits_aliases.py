"""Tracker `dirtybits` on a modelled CPU: pages that are mapped more than once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from support.dirtybits import reason
from support.paged_soft_guest import DATA, FRAMES, OFFSET, PAGES, SCREEN, TABLES, PagedGuest
from support.soft_mmu import DIRTY, FRAME
from vramtap.machine.paging_reverse import mappings
from vramtap.pages import PageRuns
from vramtap.trackers.base import AllDirty, Reason
from vramtap.trackers.machine.dirtybits import DirtyBitsTracker

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vramtap.trackers.machine.known_tables import KnownTables

ALIAS = SCREEN + 64 * FRAME
"""Second address of the screen, covered by the same page table."""


def test_alias_is_all_dirty_until_removed(guest: PagedGuest, tracker: DirtyBitsTracker) -> None:
    guest.map(ALIAS, FRAMES + 3 * FRAME)
    assert reason(tracker.collect()) is Reason.ALIASED
    walks = tracker.walks
    for _ in range(3):
        guest.draw(3)
        guest.draw(0, ALIAS)
        assert tracker.collect() == AllDirty(Reason.ALIASED, "more than one entry maps page 3")
    assert tracker.walks == walks, "the tables did not change"
    guest.unmap(ALIAS)
    assert reason(tracker.collect()) is Reason.ALIASED
    guest.draw(3)
    assert tracker.collect() == PageRuns([(3, 4)])


def test_pages_without_alias_stay_exact(guest: PagedGuest, tracker: DirtyBitsTracker) -> None:
    guest.map(ALIAS, FRAMES + 7 * FRAME)
    tracker.collect()
    guest.draw(1)
    guest.draw(0, ALIAS)
    assert tracker.collect((0, 4)) == PageRuns([(1, 2)])
    assert reason(tracker.collect((4, 8))) is Reason.ALIASED


def test_alias_outside_the_window_is_reported_later(guest: PagedGuest, tracker: DirtyBitsTracker) -> None:
    guest.map(ALIAS, FRAMES + 7 * FRAME)
    tracker.collect()
    guest.draw(0, ALIAS)
    guest.unmap(ALIAS)
    assert reason(tracker.collect((0, 4))) is Reason.ALIASED
    assert tracker.collect((0, 4)) == PageRuns()
    assert reason(tracker.collect((4, 8))) is Reason.ALIASED
    assert tracker.collect() == PageRuns()


class TrustsTheLastWalk(DirtyBitsTracker):
    """A wrong tracker: takes the entries of the first walk for all entries."""

    def _tables_changed(self, known: KnownTables, words: NDArray[np.uint64], stored: PageRuns) -> bool:
        return False


class WalksAtEachScan(DirtyBitsTracker):
    """Another wrong tracker: searches the tables for aliases at each scan only."""

    def _tables_changed(self, known: KnownTables, words: NDArray[np.uint64], stored: PageRuns) -> bool:
        found = mappings(self._machine.memory, known.root, self._frame, self._pages)
        return len(found.leaves.entry) != len(known.page)


@pytest.mark.parametrize("how", ["stays", "comes and goes"])
@pytest.mark.parametrize("kind", [TrustsTheLastWalk, WalksAtEachScan, DirtyBitsTracker])
def test_ignoring_an_alias_loses_pages(kind: type[DirtyBitsTracker], how: str) -> None:
    guest = PagedGuest()
    tracker = kind()
    tracker.start(guest.extent)
    tracker.collect()
    copy = guest.memory.vram.copy()
    guest.draw(1)
    guest.map(ALIAS, FRAMES + 5 * FRAME)
    guest.draw(0, ALIAS)
    if how == "comes and goes":
        guest.unmap(ALIAS)
    answer = tracker.collect()
    runs = PageRuns.full(PAGES) if isinstance(answer, AllDirty) else answer
    tracker.read_from.read(runs, copy[OFFSET * FRAME :])
    lost = not np.array_equal(copy, guest.memory.vram)
    detects = {DirtyBitsTracker: True, WalksAtEachScan: how == "stays", TrustsTheLastWalk: False}
    assert lost is not detects[kind]
    tracker.stop()


def test_alias_in_new_tables_is_detected(guest: PagedGuest, tracker: DirtyBitsTracker) -> None:
    other = 0x7F00_0000_0000
    pt, pd, pdpt = TABLES + 29 * FRAME, TABLES + 30 * FRAME, TABLES + 31 * FRAME
    guest.cpu.store(pt, FRAMES + 2 * FRAME | 3)
    guest.cpu.store(pd, pt | 3)
    guest.cpu.store(pdpt, pd | 3)
    assert tracker.collect() == PageRuns(), "not a table yet"
    guest.set_entry(other, pdpt | 3, level=4)
    guest.draw(0, other)
    guest.set_entry(other, 0, level=4)
    assert tracker.collect() == AllDirty(
        Reason.ALIASED, "the guest wrote its page tables since the last scan"
    )


def test_alias_of_a_table_is_watched(guest: PagedGuest, tracker: DirtyBitsTracker) -> None:
    table = guest.tables.entry(SCREEN) // FRAME * FRAME
    guest.map(ALIAS, table)
    assert reason(tracker.collect()) is Reason.ALIASED
    assert tracker.collect() == PageRuns()
    there = ALIAS + guest.tables.entry(ALIAS + FRAME) % FRAME
    guest.cpu.store(there, FRAMES | 3)
    guest.draw(0, ALIAS + FRAME)
    guest.cpu.store(there, 0)
    assert reason(tracker.collect()) is Reason.ALIASED


def test_stale_tlb_mapping_is_flushed(guest: PagedGuest, tracker: DirtyBitsTracker) -> None:
    guest.map(ALIAS, FRAMES + 4 * FRAME)
    guest.draw(0, ALIAS)
    guest.cpu.store(guest.tables.entry(ALIAS), 0)  # and no INVLPG
    assert reason(tracker.collect()) is Reason.ALIASED
    assert ALIAS >> 12 not in guest.cpu.tlb


def test_entry_removed_with_its_dirty_bit_is_detected(guest: PagedGuest) -> None:
    # The last store removes the entry through which it is made.
    tracker = DirtyBitsTracker()
    entry = guest.tables.entry(guest.tables.entry(DATA) // FRAME * FRAME)
    tracker.start(guest.extent)
    tracker.collect()
    guest.draw(2)
    guest.cpu.store(entry, 0)
    assert not int(guest.memory.words(entry, 1)[0]) & DIRTY
    assert reason(tracker.collect()) is Reason.ALIASED
    tracker.stop()
