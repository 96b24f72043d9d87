"""A guest on a real CPU that stores one byte through its own page tables after each `hlt`."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from support.kvm_guest import FIRST_PAGE, MAILBOX, STORE_AS_TOLD, SilentPorts
from support.soft_mmu import Tables
from vramtap.machine.boot import prepare
from vramtap.machine.choose_cpu import CpuName, make_cpu
from vramtap.machine.cpu import ExitKind
from vramtap.machine.layout import BOOT_INFO, BOOT_STACK, IMAGE_BASE, VRAM_BASE
from vramtap.machine.memory import GuestMemory
from vramtap.machine.run_notifier import RunNotifier
from vramtap.machine.space import GuestSpace
from vramtap.memory.extent import Extent
from vramtap.pages import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PAGES: Final = 64
SCREEN: Final = 0xFFFF_8000_0010_0000
"""Where the guest maps the extent, by 4 KiB pages."""
TABLES: Final = 0x20_0000
"""Guest-physical address of the tables, which are mapped by entries of their own."""


class PagedMachine:
    """A machine that runs in `until_halt` only, on the caller's thread.

    Args:
        cpu: Kind of CPU.
    """

    def __init__(self, cpu: CpuName) -> None:
        self.memory = GuestMemory()
        self.runs = RunNotifier()
        prepare(self.memory, "")
        self.memory.store(IMAGE_BASE, STORE_AS_TOLD)
        self.tables = Tables(self.memory, TABLES)
        for address in (IMAGE_BASE, MAILBOX, BOOT_STACK - PAGE_SIZE):
            self.tables.map(address, address & -PAGE_SIZE)
        self.tables.map(TABLES, TABLES, 16)
        self.tables.map(SCREEN, VRAM_BASE + FIRST_PAGE * PAGE_SIZE, PAGES)
        self.cpu, _ = make_cpu(cpu, self.memory, SilentPorts())
        self.cpu.start_at(IMAGE_BASE, stack=BOOT_STACK, argument=BOOT_INFO, tables=self.tables.root)
        self.until_halt()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Do nothing: the guest stands still."""
        yield

    def until_halt(self) -> None:
        """Run the guest until it halts."""
        self.runs.begin()
        stop = self.cpu.run()
        self.runs.end(halted=stop.kind is ExitKind.HALT)
        assert stop.kind is ExitKind.HALT, stop

    def store(self, virtual: int, value: int) -> None:
        """Let the guest store one byte."""
        self.memory.words(MAILBOX, 1)[0] = virtual
        self.memory.ram[MAILBOX + 8] = value
        self.until_halt()

    def store_word(self, virtual: int, word: int) -> None:
        """Let the guest store eight bytes, one by one."""
        for byte in range(8):
            self.store(virtual + byte, word >> 8 * byte & 0xFF)

    @property
    def extent(self) -> Extent:
        """Extent that the guest maps at `SCREEN`."""
        return Extent(GuestSpace(self), self.memory.vram.ctypes.data + FIRST_PAGE * PAGE_SIZE, PAGES)


@dataclass
class PagedMemory:
    """`Memory` of the contract tests."""

    extent: Extent
    write: Callable[[int, int], None]


@contextlib.contextmanager
def _paged_memory(cpu: CpuName) -> Iterator[PagedMemory]:
    machine = PagedMachine(cpu)
    yield PagedMemory(machine.extent, lambda offset, value: machine.store(SCREEN + offset, value))
    machine.cpu.close()


def paged_unicorn(tmp_path: Path) -> contextlib.AbstractContextManager[PagedMemory]:
    return _paged_memory("unicorn")


def paged_kvm(tmp_path: Path) -> contextlib.AbstractContextManager[PagedMemory]:
    return _paged_memory("kvm")


PAGED_MEMORIES: Final = [paged_unicorn, paged_kvm]
