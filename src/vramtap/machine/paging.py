"""Guest page tables: one address walked as the CPU does, and the dirty bits read and cleared.

Layout and reserved bits: Intel SDM volume 3A, 4.5. The execute-disable bit is taken as allowed, and a 1 GiB
page as supported, whatever the CPU says: entries it refuses translate nothing, so too much is found, never
too little. The reverse question is in `machine.paging_reverse`.
"""

from __future__ import annotations

from dataclasses import dataclass
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
"""PS, at levels 3 and 2; at level 4 it is reserved, at level 1 it is the memory type (PAT)."""
ADDRESS: Final = 0x000F_FFFF_FFFF_F000
ENTRIES: Final = 512
"""Of a table; one frame."""
LEVELS: Final = (4, 3, 2, 1)

VRAM_FRAME: Final = VRAM_BASE // PAGE_SIZE
RAM_FRAMES: Final = RAM_BYTES // PAGE_SIZE
FRAMES_END: Final = (VRAM_BASE + VRAM_BYTES) // PAGE_SIZE
_DIRTY: Final = np.uint64(DIRTY)


@dataclass(frozen=True, slots=True)
class Translation:
    """Where a virtual address leads.

    Args:
        physical: Guest-physical address.
        entry: Guest-physical address of the entry that maps the page.
        page_bytes: 4 KiB, 2 MiB or 1 GiB.
    """

    physical: int
    entry: int
    page_bytes: int


def walk(memory: GuestMemory, cr3: int, virtual: int) -> Translation | None:
    """Translate one virtual address as the CPU does, without marking anything.

    Args:
        memory: Of the guest.
        cr3: As the CPU holds it, flags included.
        virtual: 64 bits, unsigned.

    Returns:
        None where the CPU would fault: not canonical, not present, reserved bits, a table outside memory.
    """
    if virtual >> 47 not in (0, 0x1FFFF):
        return None
    table = cr3 & ADDRESS
    for level in LEVELS:
        if not has_memory(np.array(table // PAGE_SIZE)):
            return None
        shift = shift_of(level)
        entry = table + 8 * (virtual >> shift & (ENTRIES - 1))
        word = int(memory.words(entry, 1)[0])
        if not word & PRESENT or word & reserved_bits(level, word):
            return None
        if level == 1 or word & LARGE:
            page_bytes = 1 << shift
            base = word & ADDRESS & -page_bytes
            return Translation(base | virtual & (page_bytes - 1), entry, page_bytes)
        table = word & ADDRESS
    raise AssertionError("level 1 always maps a page")


def read_entries(memory: GuestMemory, entries: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Entries by their guest-physical addresses, which `mappings` gives; shape of `entries`."""
    words = np.empty(entries.shape, dtype=np.uint64)
    for view, inside, index in _views(memory, entries):
        words[inside] = view[index]
    return words


def fetch_and_clear_dirty(memory: GuestMemory, entries: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Read entries and clear the dirty bit of those that have it.

    Facts. A CPU sets D by a locked operation on the entry, when it stores through a translation whose D it
    has not seen set (Intel SDM volume 3A, 4.8). It remembers in its TLB that D is set, and then stores
    without looking at the entry again. Unicorn and KVM's CPUs do both only while they run the guest. And
    what is done here is no locked operation: numpy reads the entries and writes them back later.

    Consequences. Were the CPU to run in between, what the guest changed in an entry in that time would be
    undone; and as long as its TLB is not flushed, later stores leave no mark.

    Decision. The CPU must be stopped: nothing can be set or changed at the same time then, so nothing can
    be lost. (On a CPU that runs, this would have to be an atomic fetch-and-and on each entry.) The caller
    flushes the TLB before the CPU runs again and before it reads pixels. Entries whose D is clear are not
    written at all.

    Args:
        memory: Of a guest that is stopped.
        entries: Guest-physical addresses of entries, as `mappings` gives them; repeats allowed.

    Returns:
        The entries as they were before: those with `DIRTY` were dirty. Shape of `entries`.
    """
    words = read_entries(memory, entries)
    for view, inside, index in _views(memory, entries):
        before = words[inside]
        dirty = (before & _DIRTY) != 0
        view[index[dirty]] = before[dirty] & ~_DIRTY
    return words


def set_dirty(memory: GuestMemory, entries: NDArray[np.int64]) -> None:
    """Set the dirty bit of entries of a guest that is stopped: to put back what was cleared."""
    for view, _, index in _views(memory, entries):
        view[index] |= _DIRTY


def has_memory(frame: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of these frames are RAM or video RAM."""
    return (frame < RAM_FRAMES) | ((frame >= VRAM_FRAME) & (frame < FRAMES_END))


def _views(
    memory: GuestMemory, entries: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.bool_] | slice, NDArray[np.int64]]]:
    """RAM and video RAM as words: which of the entries lie there, and at which word."""
    in_vram = entries >= VRAM_BASE
    if not in_vram.any():
        yield memory.ram.view(np.uint64), slice(None), entries >> 3
        return
    yield memory.ram.view(np.uint64), ~in_vram, entries[~in_vram] >> 3
    yield memory.vram.view(np.uint64), in_vram, (entries[in_vram] - VRAM_BASE) >> 3


def shift_of(level: int) -> int:
    """The lowest bit of a virtual address that a table of this level looks at."""
    return 12 + 9 * (level - 1)


def reserved_bits(level: int, word: int) -> int:
    """The bits that must be zero in an entry; of the address, those below a large page's size but PAT's."""
    if not word & LARGE or level == 1:
        return 0
    return LARGE if level == LEVELS[0] else ((1 << shift_of(level)) - 1) & ADDRESS & ~(1 << 12)
