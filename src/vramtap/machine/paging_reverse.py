"""Reverse lookup in guest page tables: which entries map given frames, over all virtual addresses.

The guest writes the tables, so they may hold anything: entries that point at their own table, at tables
outside memory or in video RAM, or one table shared by millions of addresses. This module therefore does not
follow addresses. It goes through the tables level by level, all tables of a level in one numpy operation and
each table once a level, `MAX_TABLES` in all. It reports each entry once, however many addresses lead to it.
There are only four levels, so a loop of tables ends by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from vramtap.machine.paging import (
    ADDRESS,
    ENTRIES,
    FRAMES_END,
    LARGE,
    LEVELS,
    PRESENT,
    RAM_FRAMES,
    VRAM_FRAME,
    has_memory,
    reserved_bits,
    shift_of,
)
from vramtap.pages import PAGE_SIZE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vramtap.machine.memory import GuestMemory

MAX_TABLES: Final = 1024
"""Most tables read by one lookup; a table at two levels counts twice. That many map 2 GiB by 4 KiB pages,
while the VM has 80 MiB. The worst case that a guest can build from them takes about 20 ms."""
_WANTED: Final = 1
_TABLE: Final = 2
_PRESENT: Final = np.uint64(PRESENT)
_LARGE: Final = np.uint64(LARGE)


@dataclass(frozen=True, slots=True)
class Leaves:
    """Entries that map pages, each once. All arrays have the shape `(entries,)`.

    Args:
        entry: Guest-physical address of each entry, int64.
        virtual: Lowest virtual address that the entry maps, canonical, uint64.
        frame: First frame that the entry maps, int64.
        frames: Number of frames that it maps: 1, 512 or 262,144, int64.
    """

    entry: NDArray[np.int64]
    virtual: NDArray[np.uint64]
    frame: NDArray[np.int64]
    frames: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Mappings:
    """Entries that map given frames, and entries that map the page tables themselves.

    Args:
        leaves: Entries that map any of the given frames.
        tables: Frames of all reachable tables, sorted, each once, int64.
        table_leaves: Entries that map any of the tables.
        complete: False if there are more than `MAX_TABLES` tables, or if a table lies outside RAM and video
            RAM, where the CPU may have memory of its own (KVM: three pages for a TSS). The other fields are
            then incomplete.
    """

    leaves: Leaves
    tables: NDArray[np.int64]
    table_leaves: Leaves
    complete: bool


def mappings(memory: GuestMemory, cr3: int, first_frame: int, frames: int) -> Mappings:
    """Return which entries map a range of frames, over the whole address space.

    Args:
        memory: Memory of a stopped guest.
        cr3: The CPU's register, flags included.
        first_frame: First frame of the range: its guest-physical address divided by `PAGE_SIZE`.
        frames: Length of the range.
    """
    last_frame = first_frame + frames
    tables, large, lowest, prefix, complete = _descend(memory, cr3)
    # One table lookup for each entry says what its frame is. The last element stands for all frames without
    # memory.
    kind = np.zeros(FRAMES_END + 1, dtype=np.uint8)
    kind[first_frame:last_frame] = _WANTED
    kind[tables] |= _TABLE
    kind[FRAMES_END] = 0
    words = _gather(memory, lowest)
    kinds = kind[np.minimum(_frame(words), FRAMES_END)]
    kinds *= (words & _PRESENT).astype(np.uint8)
    row, column = np.nonzero(kinds)
    small = _leaves(words[row, column], lowest[row], prefix[row], column, 1)
    kinds = kinds[row, column]
    end = large.frame + large.frames
    large_wanted = (large.frame < last_frame) & (end > first_frame)
    large_table = np.searchsorted(tables, large.frame) < np.searchsorted(tables, end)
    return Mappings(
        _joined(_pick(large, large_wanted), _pick(small, kinds & _WANTED != 0)),
        tables,
        _joined(_pick(large, large_table), _pick(small, kinds & _TABLE != 0)),
        complete,
    )


def _descend(
    memory: GuestMemory, cr3: int
) -> tuple[NDArray[np.int64], Leaves, NDArray[np.int64], NDArray[np.uint64], bool]:
    """Go through the tables of levels 4 to 2.

    Returns:
        The frames of all tables, sorted; the large pages; the frames of the tables of level 1, and for each
            the
        lowest virtual address that it maps; whether this is complete.
    """
    level_tables = np.array([(cr3 & ADDRESS) // PAGE_SIZE], dtype=np.int64)
    level_tables = level_tables[has_memory(level_tables)]
    prefix = np.zeros(len(level_tables), dtype=np.uint64)
    visited, large, complete = [level_tables], _NO_LEAVES, len(level_tables) > 0
    room = MAX_TABLES - 1
    for level in LEVELS[:-1]:
        words = _gather(memory, level_tables)
        row, column = np.nonzero(words & _PRESENT)
        word, table, base = words[row, column], level_tables[row], prefix[row]
        is_large = (word & _LARGE) != 0
        if level < 4:
            leaf = is_large & ((word & np.uint64(reserved_bits(level, LARGE))) == 0)
            large = _joined(large, _leaves(word[leaf], table[leaf], base[leaf], column[leaf], level))
        frame = _frame(word)
        inside = has_memory(frame)
        complete = complete and bool((inside | is_large).all())
        below = np.flatnonzero(~is_large & inside)
        # In order of virtual address, so that the first occurrence of a table has its lowest address.
        at = below[_first_of_each(frame[below])]
        if len(at) > room:
            at, complete = at[:room], False
        room -= len(at)
        level_tables, prefix = frame[at], _virtual(base[at], column[at], level)
        visited.append(level_tables)
    return np.unique(np.concatenate(visited)), large, level_tables, prefix, complete


def _leaves(
    word: NDArray[np.uint64],
    table: NDArray[np.int64],
    prefix: NDArray[np.uint64],
    column: NDArray[np.int64],
    level: int,
) -> Leaves:
    frames = ENTRIES ** (level - 1)
    return Leaves(
        table * PAGE_SIZE + column * 8,
        _virtual(prefix, column, level),
        _frame(word) & -frames,
        np.full(len(word), frames, dtype=np.int64),
    )


def _virtual(prefix: NDArray[np.uint64], column: NDArray[np.int64], level: int) -> NDArray[np.uint64]:
    """Return the first virtual address of each entry, sign-extended in the upper half."""
    virtual = prefix | column.astype(np.uint64) << np.uint64(shift_of(level))
    if level == LEVELS[0]:
        virtual[column >= ENTRIES // 2] |= np.uint64(0xFFFF << 48)
    return virtual


def _frame(word: NDArray[np.uint64]) -> NDArray[np.int64]:
    return ((word & np.uint64(ADDRESS)) >> np.uint64(12)).astype(np.int64)


def _first_of_each(frame: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the index of each frame's first occurrence, in order.

    The same as `np.unique` gives, without sorting all frames.
    """
    slot = np.where(frame < VRAM_FRAME, frame, frame - VRAM_FRAME + RAM_FRAMES)
    first = np.full(RAM_FRAMES + FRAMES_END - VRAM_FRAME, len(frame), dtype=np.int64)
    np.minimum.at(first, slot, np.arange(len(frame)))
    return np.sort(first[first < len(frame)])


def _gather(memory: GuestMemory, tables: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return copies of tables, shape `(tables, 512)`."""
    words = np.empty((len(tables), ENTRIES), dtype=np.uint64)
    in_vram = tables >= VRAM_FRAME
    words[~in_vram] = memory.ram.view(np.uint64).reshape(-1, ENTRIES)[tables[~in_vram]]
    words[in_vram] = memory.vram.view(np.uint64).reshape(-1, ENTRIES)[tables[in_vram] - VRAM_FRAME]
    return words


def _pick(leaves: Leaves, which: NDArray[np.bool_]) -> Leaves:
    return Leaves(leaves.entry[which], leaves.virtual[which], leaves.frame[which], leaves.frames[which])


def _joined(one: Leaves, other: Leaves) -> Leaves:
    return Leaves(
        np.concatenate([one.entry, other.entry]),
        np.concatenate([one.virtual, other.virtual]),
        np.concatenate([one.frame, other.frame]),
        np.concatenate([one.frames, other.frames]),
    )


_NO_LEAVES: Final = Leaves(
    np.empty(0, np.int64), np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.int64)
)
