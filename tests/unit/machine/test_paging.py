"""Page tables: the reverse lookup and a simple model of the CPU agree on any content."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.soft_mmu import DIRTY, LARGE, PRESENT, PageFault, SoftCpu, Tables, has_memory, translate
from vramtap.machine import paging
from vramtap.machine.boot import prepare
from vramtap.machine.layout import BOOT_PDPT, BOOT_PDS, BOOT_PML4, VRAM_BASE
from vramtap.machine.memory import GuestMemory
from vramtap.machine.paging_reverse import MAX_TABLES, Leaves, mappings

if TYPE_CHECKING:
    from collections.abc import Iterator

FRAME = 4096
TABLES = (0x1000, 0x2000, 0x3000, 0x40_0000, 0x3FF_F000, VRAM_BASE, VRAM_BASE + 5 * FRAME)
"""RAM's last frame and video RAM too."""
OUTSIDE = (0x400_0000, VRAM_BASE - FRAME, VRAM_BASE + (16 << 20), 1 << 40, (1 << 52) - FRAME)
INDICES = (0, 1, 255, 256, 511)
WANTED = (VRAM_BASE // FRAME + 4, 4)

frames = st.sampled_from(
    [*TABLES, *TABLES, *OUTSIDE, 0, 0x20_0000, 0x4000_0000, 0xC000_0000, 0xE000_0000]
) | st.integers(WANTED[0] - 1, WANTED[0] + WANTED[1]).map(lambda frame: frame * FRAME)
flags = st.integers(0, 0xFFF) | st.sampled_from([PRESENT, PRESENT | LARGE, PRESENT | LARGE | 0x1000])
high = st.sampled_from([0, 0, 1 << 63, 0x7FF << 52])
words = st.builds(lambda frame, low, top: frame | low | PRESENT | top, frames, flags, high) | st.integers(
    0, (1 << 64) - 1
)
contents = st.dictionaries(
    st.tuples(st.sampled_from(TABLES), st.sampled_from(INDICES)), words, min_size=1, max_size=25
)


@pytest.fixture(scope="module")
def memory() -> GuestMemory:
    return GuestMemory()


def fill(memory: GuestMemory, content: dict[tuple[int, int], int]) -> None:
    for table in TABLES:
        memory.words(table, 512)[:] = 0
    for (table, index), word in content.items():
        memory.words(table + index * 8, 1)[0] = word


def addresses() -> Iterator[int]:
    for a, b, c, d in itertools.product(INDICES, repeat=4):
        yield (a << 39 | b << 30 | c << 21 | d << 12) | (0xFFFF << 48 if a >= 256 else 0)


def model(memory: GuestMemory, cr3: int) -> dict[tuple[int, int], tuple[int, int]]:
    """Return by entry and page size: the lowest virtual address that it maps, and its physical address."""
    found: dict[tuple[int, int], tuple[int, int]] = {}
    for virtual in addresses():
        try:
            step = translate(memory, cr3, virtual)
        except PageFault:
            continue
        base = virtual & -step.page_bytes
        known = found.setdefault((step.entries[-1], step.page_bytes), (base, step.base))
        assert known[0] <= base
    return found


def leaves_memory(memory: GuestMemory, cr3: int) -> bool:
    """Return whether an entry leads to a table outside memory."""
    level = {cr3 % (1 << 52) // FRAME * FRAME}
    for _ in (3, 2, 1):
        if not all(has_memory(table) for table in level):
            return True
        entries = [word for table in level for word in memory.words(table, 512).tolist()]
        level = {word % (1 << 52) // FRAME * FRAME for word in entries if word & PRESENT and not word & LARGE}
    return not all(has_memory(table) for table in level)


def listed(leaves: Leaves) -> dict[tuple[int, int], tuple[int, int]]:
    rows = zip(
        leaves.entry.tolist(),
        leaves.virtual.tolist(),
        leaves.frame.tolist(),
        leaves.frames.tolist(),
        strict=True,
    )
    rows_found = [((entry, count * FRAME), (virtual, frame * FRAME)) for entry, virtual, frame, count in rows]
    assert len({key for key, _ in rows_found}) == len(rows_found), "an entry is reported twice"
    return dict(rows_found)


@given(content=contents, cr3=st.sampled_from([*TABLES, TABLES[0] | 0xFFF, *OUTSIDE]))
@settings(deadline=None, max_examples=150)
def test_reverse_lookup_agrees_with_translating_every_address(
    memory: GuestMemory, content: dict[tuple[int, int], int], cr3: int
) -> None:
    fill(memory, content)
    expected = model(memory, cr3)
    before = memory.ram[:0x4000].copy()
    answer = mappings(memory, cr3, *WANTED)
    assert np.array_equal(memory.ram[:0x4000], before), "the lookup changes no entry"
    assert answer.complete is not leaves_memory(memory, cr3)
    tables = set(answer.tables.tolist())

    def maps(key: tuple[int, int], base: int, wanted: set[int]) -> bool:
        return any(base <= frame * FRAME < base + key[1] for frame in wanted)

    extent = set(range(WANTED[0], WANTED[0] + WANTED[1]))
    assert listed(answer.leaves) == {k: v for k, v in expected.items() if maps(k, v[1], extent)}
    assert listed(answer.table_leaves) == {k: v for k, v in expected.items() if maps(k, v[1], tables)}
    assert {key[0] // FRAME for key in expected} <= tables
    assert all(has_memory(frame * FRAME) for frame in tables)


def test_reverse_lookup_of_the_boot_tables() -> None:
    memory = GuestMemory()
    prepare(memory, "")
    entry = BOOT_PDS + (VRAM_BASE >> 21) * 8
    answer = mappings(memory, BOOT_PML4, VRAM_BASE // FRAME, 4096)
    assert listed(answer.leaves) == {
        (entry + 8 * n, 2 << 20): (VRAM_BASE + (n << 21), VRAM_BASE + (n << 21)) for n in range(8)
    }
    assert answer.tables.tolist() == [BOOT_PML4 // FRAME, BOOT_PDPT // FRAME, *range(3, 7)]
    assert listed(answer.table_leaves) == {(BOOT_PDS, 2 << 20): (0, 0)}


def test_self_referencing_table_is_read_once_a_level() -> None:
    memory = GuestMemory()
    memory.words(0x1000, 512)[:] = 0x1000 | PRESENT
    answer = mappings(memory, 0x1000, VRAM_BASE // FRAME, 16)
    assert answer.complete
    assert answer.tables.tolist() == [1]
    assert answer.table_leaves.entry.tolist() == list(range(0x1000, 0x2000, 8)), "2 ** 36 addresses"
    assert len(answer.leaves.entry) == 0


def test_shared_table_is_reported_once_at_its_lowest_address() -> None:
    memory = GuestMemory()
    for table, below in ((0x1000, 0x2000), (0x2000, 0x3000), (0x3000, 0x4000)):
        memory.words(table, 512)[7:] = below | PRESENT
    memory.words(0x4000, 512)[:] = VRAM_BASE | PRESENT
    answer = mappings(memory, 0x1000, VRAM_BASE // FRAME, 1)
    assert answer.leaves.entry.tolist() == list(range(0x4000, 0x5000, 8))
    lowest = 7 << 39 | 7 << 30 | 7 << 21
    assert answer.leaves.virtual.tolist() == [lowest + page * FRAME for page in range(512)]


def test_too_many_tables_give_an_incomplete_result() -> None:
    memory = GuestMemory()
    ram = memory.ram.view(np.uint64)
    ram[:] = (np.random.default_rng(1).integers(0, 1 << 14, len(ram)) << 12).astype(np.uint64) | np.uint64(1)
    answer = mappings(memory, 0x1000, VRAM_BASE // FRAME, 4096)
    assert not answer.complete
    assert len(answer.tables) <= MAX_TABLES


def test_max_tables_give_a_complete_result() -> None:
    memory = GuestMemory()
    tables = Tables(memory, 0x1000)
    for number in range(MAX_TABLES - 4):  # and 1 of level 4, 1 of level 3, 2 of level 2
        tables.entry(number << 21)
    assert mappings(memory, tables.root, VRAM_BASE // FRAME, 1).complete
    tables.entry(MAX_TABLES << 21)
    assert not mappings(memory, tables.root, VRAM_BASE // FRAME, 1).complete


@given(
    at=st.lists(st.sampled_from(range(40)), max_size=30),
    content=st.lists(st.integers(0, (1 << 64) - 1), min_size=40, max_size=40),
)
@settings(deadline=None)
def test_fetch_and_clear_dirty_changes_only_dirty_bits(
    memory: GuestMemory, at: list[int], content: list[int]
) -> None:
    places = [0x5000 + 8 * n for n in range(20)] + [VRAM_BASE + 0x5000 + 8 * n for n in range(20)]
    for place, word in zip(places, content, strict=True):
        memory.words(place, 1)[0] = word
    entries = np.array([places[n] for n in at], dtype=np.int64)
    before = paging.fetch_and_clear_dirty(memory, entries)
    assert before.tolist() == [content[n] for n in at]
    now = [int(memory.words(place, 1)[0]) for place in places]
    assert now == [word & ~DIRTY if n in at else word for n, word in enumerate(content)]
    paging.set_dirty(memory, entries)
    assert all(int(word) & DIRTY for word in paging.read_entries(memory, entries))


def test_model_cpu_sets_dirty_again_only_after_a_flush() -> None:
    memory = GuestMemory()
    tables = Tables(memory, 0x1000)
    tables.map(0x7000, 0x9000)
    cpu = SoftCpu(memory, tables.root)
    entries = np.array([tables.entry(0x7000)])
    cpu.load(0x7000)
    assert not int(paging.fetch_and_clear_dirty(memory, entries)[0]) & DIRTY
    for flushed in (True, False, True):
        cpu.store(0x7008, 5)
        assert bool(int(paging.fetch_and_clear_dirty(memory, entries)[0]) & DIRTY) is flushed
        if not flushed:
            cpu.invalidate(0x7000)
