"""Reads all mappings from the page tables of a guest."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from vramtap.machine.layout import VRAM_BASE, VRAM_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vramtap.machine.machine import Machine

SMALL: Final = 1 << 12
LARGE: Final = 1 << 21
_PRESENT: Final = 0x01
_DIRTY: Final = 0x40
_LARGE: Final = 0x80
_ADDRESS: Final = 0x000F_FFFF_FFFF_F000
_KERNEL_HALF: Final = 0xFFFF << 48


@dataclass(frozen=True)
class Mapping:
    """An entry that maps a page (Intel SDM volume 3A, 4.5)."""

    address: int
    physical: int
    size_bytes: int
    dirty: bool


@dataclass
class Tables:
    """All mappings of a guest, by address, and the frames of its tables."""

    mappings: list[Mapping] = field(default_factory=list)
    frames: set[int] = field(default_factory=set)

    def of_vram(self) -> list[Mapping]:
        """Return the mappings of video RAM."""
        ends = VRAM_BASE + VRAM_BYTES
        return [one for one in self.mappings if VRAM_BASE <= one.physical < ends]

    def between(self, first: int, end: int) -> list[Mapping]:
        """Return the mappings of addresses in a range."""
        return [one for one in self.mappings if first <= one.address < end]


def tables_of(machine: Machine) -> Tables:
    """Walk the tables from CR3 while the guest is stopped."""
    tables = Tables()
    with machine.paused():
        top = machine.cpu.registers().cr3 & _ADDRESS
        tables.mappings = sorted(_walk(machine, top, 4, 0, tables.frames), key=lambda one: one.address)
    return tables


def _walk(machine: Machine, table: int, level: int, address: int, frames: set[int]) -> Iterator[Mapping]:
    frames.add(table)
    shift = 12 + 9 * (level - 1)
    for index, entry in enumerate(machine.memory.words(table, 512).tolist()):
        if not entry & _PRESENT:
            continue
        at = address | index << shift
        if level == 4 and index >= 256:
            at |= _KERNEL_HALF
        if level == 1 or (level == 2 and entry & _LARGE):
            yield Mapping(at, entry & _ADDRESS, 1 << shift, bool(entry & _DIRTY))
        else:
            yield from _walk(machine, entry & _ADDRESS, level - 1, at, frames)
