"""PagedGuest: a guest of the modelled MMU with a framebuffer of a few pages, for tests of `dirtybits`."""

from __future__ import annotations

from typing import Final

from support.soft_mmu import FRAME, WRITABLE, SoftMachine, Tables
from vramtap.machine.layout import VRAM_BASE
from vramtap.machine.space import GuestSpace
from vramtap.memory.extent import Extent

PAGES: Final = 8
OFFSET: Final = 16
"""The extent's first page in video RAM."""
FRAMES: Final = VRAM_BASE + OFFSET * FRAME
"""Guest-physical address of the extent."""
SCREEN: Final = 0xFFFF_8000_0020_0000
"""Virtual address of the extent."""
TABLES: Final = 0x10_0000
"""Address of the tables. The guest maps them, and its data below, each address to itself."""
DATA: Final = 0x8_0000


class PagedGuest(SoftMachine):
    """A guest that maps its data, its tables and the extent by 4 KiB pages."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = Tables(self.memory, TABLES)
        self.tables.map(DATA, DATA, 4)
        self.tables.map(TABLES, TABLES, 32)
        self.tables.map(SCREEN, FRAMES, PAGES)
        self.cpu.load_cr3(self.tables.root)
        self.extent = Extent(GuestSpace(self), self.memory.vram.ctypes.data + OFFSET * FRAME, PAGES)
        self._value = 0

    def draw(self, page: int, base: int = SCREEN) -> None:
        """Store a new value into a page of the framebuffer."""
        self._value += 1
        self.cpu.store(base + page * FRAME, self._value)

    def set_entry(self, virtual: int, word: int, level: int = 1) -> None:
        """Change an entry as a guest does, by a store and INVLPG."""
        entry = self.tables.entry(virtual, level)
        self.cpu.store(entry, word)
        self.cpu.invalidate(virtual)

    def map(self, virtual: int, physical: int, pages: int = 1) -> None:
        """Map pages; the tables for them must exist."""
        for page in range(pages):
            self.set_entry(virtual + page * FRAME, physical + page * FRAME | 1 | WRITABLE)

    def unmap(self, virtual: int, pages: int = 1) -> None:
        """Unmap pages."""
        for page in range(pages):
            self.set_entry(virtual + page * FRAME, 0)
