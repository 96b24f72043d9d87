"""Model of a CPU's paging, slow and simple, to check the code that reads or clears page tables.

It translates one address at a time, sets accessed and dirty bits, and keeps translations in a TLB until it is
flushed, as the manual allows (Intel SDM volume 3A, 4.5, 4.8, 4.10).
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vramtap.machine.cpu import Exit, ExitKind, Registers
from vramtap.machine.layout import RAM_BYTES, VRAM_BASE, VRAM_BYTES
from vramtap.machine.memory import GuestMemory
from vramtap.machine.run_notifier import RunNotifier

if TYPE_CHECKING:
    from collections.abc import Iterator

PRESENT, WRITABLE, ACCESSED, DIRTY, LARGE = 1, 2, 1 << 5, 1 << 6, 1 << 7
FRAME = 4096


class PageFault(Exception):
    """The address has no translation."""


@dataclass(frozen=True)
class Step:
    """Result of a translation.

    Args:
        entries: Guest-physical addresses of the entries used, from the top table on.
        page_bytes: Size of the page.
        base: Guest-physical address of the page.
    """

    entries: tuple[int, ...]
    page_bytes: int
    base: int


def has_memory(address: int) -> bool:
    return 0 <= address < RAM_BYTES or VRAM_BASE <= address < VRAM_BASE + VRAM_BYTES


def translate(memory: GuestMemory, cr3: int, virtual: int) -> Step:
    """Translate one address as the manual says.

    Raises:
        PageFault: the address has no translation.
    """
    upper = virtual >> 47
    if upper not in (0, (1 << 17) - 1):
        raise PageFault("not canonical")
    table = cr3 >> 12 << 12 & (1 << 52) - 1
    entries: list[int] = []
    for level, bits in ((4, 39), (3, 30), (2, 21), (1, 12)):
        if not has_memory(table):
            raise PageFault("a table outside memory")
        entries.append(table + (virtual >> bits) % 512 * 8)
        word = int(memory.words(entries[-1], 1)[0])
        address = word % (1 << 52) // FRAME * FRAME
        if not word & PRESENT:
            raise PageFault("not present")
        if level == 4 and word & LARGE:
            raise PageFault("reserved bit")
        if level == 1:
            return Step(tuple(entries), FRAME, address)
        if word & LARGE:
            size = 1 << bits
            address -= address & 1 << 12  # part of the memory type
            if address % size:
                raise PageFault("reserved bits")
            return Step(tuple(entries), size, address)
        table = address
    raise AssertionError


class SoftCpu:
    """A CPU that loads and stores through page tables as a test directs.

    Args:
        memory: Memory of the guest.
        cr3: Address of the first page tables.
    """

    name: Literal["unicorn", "kvm"] = "unicorn"

    def __init__(self, memory: GuestMemory, cr3: int = 0) -> None:
        self.memory = memory
        self.cr3 = cr3
        self.tlb: dict[int, tuple[int, bool]] = {}
        """By virtual page: guest-physical address of the page, and whether the TLB knows D as set."""
        self.flushes = 0
        self.stopped = 0

    # What a guest does

    def load(self, virtual: int) -> int:
        """Read 8 bytes."""
        return int(self.memory.words(self._physical(virtual, store=False), 1)[0])

    def store(self, virtual: int, value: int) -> int:
        """Write 8 bytes, and return the guest-physical address."""
        assert not self.stopped, "the guest runs while it is stopped"
        physical = self._physical(virtual, store=True)
        self.memory.words(physical, 1)[0] = value
        return physical

    def load_cr3(self, value: int) -> None:
        """Load other tables."""
        self.cr3 = value
        self.tlb.clear()

    def invalidate(self, virtual: int) -> None:
        """Execute INVLPG."""
        self.tlb.pop(virtual >> 12, None)

    def _physical(self, virtual: int, *, store: bool) -> int:
        page = virtual >> 12
        known = self.tlb.get(page)
        if known is None or (store and not known[1]):
            step = translate(self.memory, self.cr3, virtual)
            marks = [ACCESSED] * (len(step.entries) - 1) + [ACCESSED | (DIRTY if store else 0)]
            for entry, mark in zip(step.entries, marks, strict=True):
                self.memory.words(entry, 1)[0] |= mark
            dirty = bool(int(self.memory.words(step.entries[-1], 1)[0]) & DIRTY)
            inside = virtual % step.page_bytes // FRAME * FRAME
            known = self.tlb[page] = (step.base + inside, dirty)
        if not has_memory(known[0]):
            raise PageFault("no memory there")
        return known[0] + virtual % FRAME

    # The contract

    def start_at(self, entry: int, *, stack: int, argument: int, tables: int) -> None:
        self.load_cr3(tables)

    def run(self) -> Exit:
        return Exit(ExitKind.HALT)

    def kick(self) -> None:
        """Do nothing: the CPU runs only inside the calls above."""

    def registers(self) -> Registers:
        assert self.stopped, "registers are read while the guest runs"
        return Registers(0, 0, 0, self.cr3)

    def flush_tlb(self) -> None:
        assert self.stopped, "the TLB is flushed while the guest runs"
        self.flushes += 1
        self.tlb.clear()

    def close(self) -> None:
        """Do nothing."""


class SoftMachine:
    """A machine with such a CPU."""

    def __init__(self, memory: GuestMemory | None = None, cr3: int = 0) -> None:
        self.memory = memory or GuestMemory()
        self.runs = RunNotifier()
        self.cpu = SoftCpu(self.memory, cr3)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        self.cpu.stopped += 1
        try:
            yield
        finally:
            self.cpu.stopped -= 1


class Tables:
    """Page tables that the test writes before the guest runs.

    Args:
        memory: Memory of the guest.
        first: Guest-physical address of the first table. Further tables follow it.
    """

    def __init__(self, memory: GuestMemory, first: int) -> None:
        self.memory = memory
        self.root = first
        self.next = first + FRAME

    def entry(self, virtual: int, level: int = 1) -> int:
        """Return the address of an entry at a level; make the tables above it."""
        table = self.root
        for at in range(4, level, -1):
            word = self.memory.words(table + (virtual >> (3 + 9 * at)) % 512 * 8, 1)
            if not int(word[0]) & PRESENT:
                word[0] = self.next | PRESENT | WRITABLE
                self.next += FRAME
            table = int(word[0]) % (1 << 52) // FRAME * FRAME
        return table + (virtual >> (3 + 9 * level)) % 512 * 8

    def map(self, virtual: int, physical: int, pages: int = 1, flags: int = WRITABLE) -> None:
        """Map by 4 KiB pages."""
        for page in range(pages):
            at = self.entry(virtual + page * FRAME)
            self.memory.words(at, 1)[0] = physical + page * FRAME | PRESENT | flags

    def map_large(self, virtual: int, physical: int, level: int = 2) -> None:
        """Map by one page of 2 MiB, or of 1 GiB at level 3."""
        self.memory.words(self.entry(virtual, level), 1)[0] = physical | PRESENT | WRITABLE | LARGE
