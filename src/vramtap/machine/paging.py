"""Guest page tables: layout of an entry, and reading and clearing dirty bits.

Layout and reserved bits: Intel SDM volume 3A, 4.5. This module assumes that the CPU supports execute-disable
and 1 GiB pages. If it does not, an entry that uses them translates nothing for the CPU, so
`machine.paging_reverse` finds too much, never too little.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from vramtap.machine.layout import RAM_BYTES, VRAM_BASE, VRAM_BYTES
from vramtap.pages import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vramtap.machine.memory import GuestMemory

PRESENT: Final = 1 << 0
ACCESSED: Final = 1 << 5
DIRTY: Final = 1 << 6
LARGE: Final = 1 << 7
"""PS at levels 3 and 2. Reserved at level 4; part of the memory type (PAT) at level 1."""
ADDRESS: Final = 0x000F_FFFF_FFFF_F000
ENTRIES: Final = 512
"""Entries of a table, which is one frame."""
LEVELS: Final = (4, 3, 2, 1)

VRAM_FRAME: Final = VRAM_BASE // PAGE_SIZE
RAM_FRAMES: Final = RAM_BYTES // PAGE_SIZE
FRAMES_END: Final = (VRAM_BASE + VRAM_BYTES) // PAGE_SIZE
_DIRTY: Final = np.uint64(DIRTY)


def read_entries(memory: GuestMemory, entries: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Read entries.

    Args:
        memory: Memory of the guest.
        entries: Guest-physical addresses of entries, any shape, as `mappings` returns them.

    Returns:
        The entries; same shape.
    """
    words = np.empty(entries.shape, dtype=np.uint64)
    for view, inside, index in _views(memory, entries):
        words[inside] = view[index]
    return words


def fetch_and_clear_dirty(memory: GuestMemory, entries: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Read entries, and clear the dirty bit of those that have it set.

    Facts. When a CPU stores through a translation whose D it has not seen set, it sets D in the entry by a
    locked operation (Intel SDM volume 3A, 4.8). Its TLB then remembers that D is set, and later stores do not
    read the entry again. Unicorn and KVM's CPUs do both only while they run the guest. This function uses no
    locked operation: numpy reads the entries and writes them back later.

    Consequences. If the CPU ran in between, a change that the guest makes to an entry in that time would be
    undone. And until the TLB is flushed, later stores do not set D again.

    Decision. The CPU must be stopped, so that no entry can change meanwhile and nothing is lost. (On a
    running CPU this would need an atomic fetch-and-and on each entry.) The caller flushes the TLB before the
    CPU runs again and before it reads pixels. Entries whose D is clear are not written.

    Args:
        memory: Memory of a stopped guest.
        entries: Guest-physical addresses of entries, any shape, as `mappings` returns them. Repeats are
            allowed.

    Returns:
        The entries before clearing: those with `DIRTY` were dirty. Same shape as `entries`.
    """
    words = read_entries(memory, entries)
    for view, inside, index in _views(memory, entries):
        before = words[inside]
        dirty = (before & _DIRTY) != 0
        view[index[dirty]] = before[dirty] & ~_DIRTY
    return words


def set_dirty(memory: GuestMemory, entries: NDArray[np.int64]) -> None:
    """Set the dirty bit of entries of a stopped guest, to undo `fetch_and_clear_dirty`."""
    for view, _, index in _views(memory, entries):
        view[index] |= _DIRTY


def has_memory(frame: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which of these frames are RAM or video RAM."""
    return (frame < RAM_FRAMES) | ((frame >= VRAM_FRAME) & (frame < FRAMES_END))


def _views(
    memory: GuestMemory, entries: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.bool_] | slice, NDArray[np.int64]]]:
    """Yield RAM and video RAM as words, which of the entries lie there, and their indices as words."""
    in_vram = entries >= VRAM_BASE
    if not in_vram.any():
        yield memory.ram.view(np.uint64), slice(None), entries >> 3
        return
    yield memory.ram.view(np.uint64), ~in_vram, entries[~in_vram] >> 3
    yield memory.vram.view(np.uint64), in_vram, (entries[in_vram] - VRAM_BASE) >> 3


def shift_of(level: int) -> int:
    """Return the lowest bit of a virtual address that indexes a table of this level."""
    return 12 + 9 * (level - 1)


def reserved_bits(level: int, word: int) -> int:
    """Return the bits of an entry that must be zero.

    In the address of a large page these are the bits below its size, except PAT.
    """
    if not word & LARGE or level == 1:
        return 0
    return LARGE if level == LEVELS[0] else ((1 << shift_of(level)) - 1) & ADDRESS & ~(1 << 12)
