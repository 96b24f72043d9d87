"""Tracker `dirtybits` with guests that change their page tables at random: exact answers."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from support.paged_soft_guest import DATA, FRAMES, OFFSET, PAGES, SCREEN, TABLES, PagedGuest
from support.soft_mmu import DIRTY, FRAME, LARGE, PRESENT, PageFault, Tables, has_memory
from vramtap.machine.layout import VRAM_BASE
from vramtap.pages import PageRuns
from vramtap.trackers.base import AllDirty
from vramtap.trackers.machine.dirtybits import DirtyBitsTracker

SPARE = TABLES + 20 * FRAME
"""Frames that may become tables; the guest maps them."""
OTHER = 0x20_0000
"""The guest's second set of tables."""
INDICES = (*range(6), 64, 128, 256, 300, 511)
LEVEL_BITS = ((4, 39), (3, 30), (2, 21), (1, 12))


def leaves(guest: PagedGuest) -> list[tuple[int, int, int, int]]:
    """Return every mapping of the current tables: virtual address, guest-physical address, bytes, entry.

    A table that many paths reach at a level is followed for the first two of them.
    """
    found = []
    visits: Counter[tuple[int, int]] = Counter()

    def descend(table: int, level: int, virtual: int) -> None:
        visits[table, level] += 1
        if not has_memory(table) or visits[table, level] > 2:
            return
        bits = dict(LEVEL_BITS)[level]
        words = guest.memory.words(table, 512)
        for index in np.flatnonzero(words & np.uint64(PRESENT)).tolist():
            word = int(words[index])
            here = virtual | index << bits | (0xFFFF << 48 if level == 4 and index >= 256 else 0)
            address = word % (1 << 52) // FRAME * FRAME
            if level == 1 or (word & LARGE and level < 4):
                if address % (1 << bits) == 0:
                    found.append((here, address, 1 << bits, table + index * 8))
            elif not word & LARGE:
                descend(address, level - 1, here)

    descend(guest.cpu.cr3, 4, 0)
    return found


class GuestProgram(RuleBasedStateMachine):
    """Each rule is something that guests do. The consumer keeps a copy of the pages that it had to read."""

    def __init__(self) -> None:
        super().__init__()
        self.guest = PagedGuest()
        other = Tables(self.guest.memory, OTHER)
        other.map(TABLES, TABLES, 32)
        other.map(OTHER, OTHER, 16)
        other.map(SCREEN, FRAMES, PAGES)
        self.screen_table = self.guest.tables.entry(SCREEN) // FRAME * FRAME
        self.roots = [self.guest.tables.root, other.root]
        self.guest.tables.map(OTHER, OTHER, 16)
        self.table_frames = [
            *range(TABLES, self.guest.tables.next, FRAME),
            *range(OTHER, other.next, FRAME),
            *range(SPARE, SPARE + 4 * FRAME, FRAME),
            VRAM_BASE,
            FRAMES + 7 * FRAME,
        ]
        self.tracker = DirtyBitsTracker()
        self.tracker.start(self.guest.extent)
        self.written = np.ones(PAGES, dtype=np.bool_)
        self.copy = np.zeros(PAGES * FRAME, dtype=np.uint8)
        self.value = 0
        self.scanned_root = -1
        self.mapping_tables: set[int] = set()
        self.runs_answers = 0

    @initialize()
    def first(self) -> None:
        self.collect((0, PAGES), fails=False)

    # What the guest does

    def store(self, virtual: int, value: int) -> None:
        try:
            physical = self.guest.cpu.store(virtual, value)
        except PageFault:
            return
        if FRAMES <= physical < FRAMES + PAGES * FRAME:
            self.written[(physical - FRAMES) // FRAME] = True

    def address_of(self, frame: int, choice: int) -> int | None:
        """Return a virtual address of a frame, by the tables or by the TLB."""
        addresses = [
            virtual + frame - base
            for virtual, base, size, _ in leaves(self.guest)
            if base <= frame < base + size
        ]
        addresses += [page << 12 for page, (base, _) in self.guest.cpu.tlb.items() if base == frame]
        return addresses[choice % len(addresses)] if addresses else None

    @rule(page=st.integers(0, PAGES - 1), word=st.integers(0, 511), choice=st.integers(0, 50))
    def draw(self, page: int, word: int, choice: int) -> None:
        virtual = self.address_of(FRAMES + page * FRAME, choice)
        if virtual is not None:
            self.value += 1
            self.store(virtual + word * 8, self.value << 12)

    @rule(page=st.integers(0, PAGES - 1), choice=st.integers(0, 50))
    def load(self, page: int, choice: int) -> None:
        virtual = self.address_of(FRAMES + page * FRAME, choice)
        if virtual is not None:
            try:
                self.guest.cpu.load(virtual)
            except PageFault:
                self.guest.cpu.invalidate(virtual)

    @rule(
        table=st.integers(0, 99),
        index=st.sampled_from(INDICES),
        to=st.one_of(
            st.integers(0, PAGES - 1).map(lambda page: FRAMES + page * FRAME),
            st.integers(0, 99),
            st.sampled_from([0, DATA, VRAM_BASE & -(2 << 20), VRAM_BASE & -(1 << 30)]),
        ),
        flags=st.sampled_from([3, 3, 3, 1, 3 | LARGE, 0, 3 | DIRTY]),
        choice=st.integers(0, 50),
        forget=st.booleans(),
    )
    def write_a_table(self, table: int, index: int, to: int, flags: int, choice: int, forget: bool) -> None:
        address = self.table_frames[table % len(self.table_frames)]
        virtual = self.address_of(address, choice)
        if virtual is None:
            return
        if 0 < to < 100:
            to = self.table_frames[to % len(self.table_frames)]
        word = to | flags
        entry = address + index * 8
        before = int(self.guest.memory.words(entry, 1)[0])
        if entry in self.mapping_tables:
            # Avoid a documented limit of the tracker: a guest that clears the dirty bits of its own stores
            # into tables.
            word |= before & DIRTY
        self.store(virtual + index * 8, word)
        if forget:
            self.guest.cpu.tlb.clear()

    @rule(page=st.integers(0, PAGES - 1), index=st.integers(PAGES, 511), forget=st.booleans())
    def map_draw_and_unmap(self, page: int, index: int, forget: bool) -> None:
        entry = self.screen_table + index * 8
        virtual = self.address_of(entry // FRAME * FRAME, 0)
        if virtual is None or entry in self.mapping_tables:
            return
        before = int(self.guest.memory.words(entry, 1)[0])
        self.store(virtual + entry % FRAME, FRAMES + page * FRAME | 3)
        self.value += 1
        self.store((SCREEN & -(1 << 21)) + index * FRAME, self.value << 12)
        self.store(virtual + entry % FRAME, before)
        if forget:
            self.guest.cpu.tlb.clear()

    @rule(which=st.integers(0, 1))
    def load_cr3(self, which: int) -> None:
        root = self.roots[which]
        if root == self.scanned_root and self.guest.cpu.cr3 != root:
            # Avoid another documented limit: tables loaded between two scans.
            self.collect((0, PAGES), fails=False)
        self.guest.cpu.load_cr3(root)

    @rule(page=st.integers(0, PAGES - 1))
    def store_by_device(self, page: int) -> None:
        self.value += 1
        self.guest.memory.words(FRAMES + page * FRAME, 1)[0] = self.value << 12
        self.guest.memory.wrote((OFFSET + page) * FRAME, 8)
        self.written[page] = True

    # What the consumer does

    @rule(ends=st.tuples(st.integers(0, PAGES), st.integers(0, PAGES)), fails=st.booleans())
    def collect_some(self, ends: tuple[int, int], fails: bool) -> None:
        first, last = min(ends), max(ends)
        if first < last:
            self.collect((first, last), fails=fails)

    @rule()
    def collect_all(self) -> None:
        self.collect((0, PAGES), fails=False)

    def collect(self, window: tuple[int, int], *, fails: bool) -> None:
        answer = self.tracker.collect(window)
        self.scanned_root = self.guest.cpu.cr3
        self.note_entries_of_tables()
        first, last = window
        if isinstance(answer, AllDirty):
            runs = PageRuns([window])
        else:
            runs = answer
            self.runs_answers += 1
            inside = np.zeros(PAGES, dtype=np.bool_)
            inside[first:last] = self.written[first:last]
            assert runs == PageRuns.from_mask(inside), "a page is missing, or too many are reported"
        if fails:
            self.tracker.restore(runs)
            self.written |= runs.to_mask(PAGES)
            return
        self.written &= ~runs.to_mask(PAGES)
        self.tracker.read_from.read(runs, self.copy)
        truth = self.guest.memory.vram[(OFFSET + first) * FRAME : (OFFSET + last) * FRAME]
        assert np.array_equal(self.copy[first * FRAME : last * FRAME], truth), "the consumer's copy differs"

    def note_entries_of_tables(self) -> None:
        every = leaves(self.guest)
        tables = {entry // FRAME * FRAME for *_, entry in every} | self.tables_above()
        self.mapping_tables = {
            entry for _, base, size, entry in every if any(base <= table < base + size for table in tables)
        }

    def tables_above(self) -> set[int]:
        """Return the tables of every level, including those that map nothing."""
        found: set[int] = set()
        level = {self.guest.cpu.cr3}
        for depth in (4, 3, 2, 1):
            level = {table for table in level if has_memory(table)}
            found |= level
            below: set[int] = set()
            for table in level:
                for word in self.guest.memory.words(table, 512).tolist():
                    if word & PRESENT and not word & LARGE and depth > 1:
                        below.add(word % (1 << 52) // FRAME * FRAME)
            level = below
        return found

    @invariant()
    def the_guest_is_not_left_stopped(self) -> None:
        assert self.guest.cpu.stopped == 0

    def teardown(self) -> None:
        self.collect((0, PAGES), fails=False)
        self.collect((0, PAGES), fails=False)
        self.tracker.stop()


def test_random_guest_programs_are_followed_exactly(stress: int) -> None:
    run_state_machine_as_test(
        GuestProgram, settings=settings(max_examples=60 * stress, stateful_step_count=40, deadline=None)
    )
