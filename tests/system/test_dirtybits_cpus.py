"""Tracker `dirtybits` on real CPUs, with a guest that stores into its own page tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from support.dirtybits import reason, started
from support.kvm_guest import FIRST_PAGE
from support.paged_kvm_guest import PAGES, SCREEN, PagedMachine
from vramtap.machine.layout import VRAM_BASE
from vramtap.machine.paging import DIRTY, LARGE
from vramtap.pages import PAGE_SIZE, PageRuns
from vramtap.trackers.base import AllDirty, Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vramtap.trackers.machine.dirtybits import DirtyBitsTracker

FRAMES = VRAM_BASE + FIRST_PAGE * PAGE_SIZE
ALIAS = SCREEN + 128 * PAGE_SIZE
"""Second address of the screen, covered by the same page table."""


@pytest.fixture(params=["unicorn", "kvm"])
def machine(request: pytest.FixtureRequest) -> Iterator[PagedMachine]:
    machine = PagedMachine(request.param)
    yield machine
    machine.cpu.close()


@pytest.fixture
def tracker(machine: PagedMachine) -> Iterator[DirtyBitsTracker]:
    with started(machine.extent) as tracker:
        yield tracker


def test_temporary_alias_is_detected(machine: PagedMachine, tracker: DirtyBitsTracker) -> None:
    entry = machine.tables.entry(ALIAS)
    for page in (3, 9):
        machine.store_word(entry, FRAMES + page * PAGE_SIZE | 3)
        machine.store(ALIAS, 7)
        machine.store_word(entry, 0)
        assert machine.memory.vram[(FIRST_PAGE + page) * PAGE_SIZE] == 7, "the guest did store"
        assert reason(tracker.collect()) is Reason.ALIASED
        machine.store(SCREEN + page * PAGE_SIZE, 1)
        assert tracker.collect() == PageRuns([(page, page + 1)])


def test_alias_is_all_dirty_until_removed(machine: PagedMachine, tracker: DirtyBitsTracker) -> None:
    entry = machine.tables.entry(ALIAS)
    machine.store_word(entry, FRAMES | 3)
    for value in range(3):
        machine.store(ALIAS, value)
        assert reason(tracker.collect()) is Reason.ALIASED
    machine.store_word(entry, 0)
    assert reason(tracker.collect()) is Reason.ALIASED
    machine.store(SCREEN, 1)
    assert tracker.collect() == PageRuns([(0, 1)])


def test_moved_framebuffer_is_followed(machine: PagedMachine, tracker: DirtyBitsTracker) -> None:
    for page in range(PAGES):
        machine.store_word(machine.tables.entry(SCREEN + page * PAGE_SIZE), 0)
        machine.store_word(machine.tables.entry(ALIAS + page * PAGE_SIZE), FRAMES + page * PAGE_SIZE | 3)
    machine.store(ALIAS + 5 * PAGE_SIZE, 5)
    assert reason(tracker.collect()) is Reason.REMAPPED
    machine.store(ALIAS + 6 * PAGE_SIZE, 5)
    assert tracker.collect() == PageRuns([(6, 7)])
    assert tracker.virtual == ALIAS


def test_large_page_is_reported_until_replaced(machine: PagedMachine, tracker: DirtyBitsTracker) -> None:
    entry = machine.tables.entry(SCREEN, level=2)
    table = int(machine.memory.words(entry, 1)[0])
    machine.store_word(entry, VRAM_BASE | 3 | LARGE)
    assert reason(tracker.collect()) is Reason.LARGE_PAGE
    inside = (SCREEN & -(2 << 20)) + (FIRST_PAGE + 4) * PAGE_SIZE
    machine.store(inside, 4)
    assert machine.memory.vram[(FIRST_PAGE + 4) * PAGE_SIZE] == 4
    assert reason(tracker.collect()) is Reason.LARGE_PAGE
    machine.store_word(entry, table)
    assert isinstance(tracker.collect(), AllDirty)
    machine.store(SCREEN, 1)
    assert tracker.collect() == PageRuns([(0, 1)])


def test_cpu_sets_dirty_bits_of_the_expected_entries(machine: PagedMachine) -> None:
    entries = np.array([machine.tables.entry(SCREEN + page * PAGE_SIZE) for page in range(PAGES)])
    for page in (0, 17, 63):
        machine.store(SCREEN + page * PAGE_SIZE, 1)
    words = [int(machine.memory.words(int(entry), 1)[0]) for entry in entries]
    assert [page for page, word in enumerate(words) if word & DIRTY] == [0, 17, 63]
