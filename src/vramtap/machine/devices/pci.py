"""PciDevice: PCI configuration mechanism #1, on a bus with a host bridge and the display.

Sources: PCI Local Bus Specification 3.0, 3.2.2.3.2 (the mechanism), 6.1 (the header), 6.2.5.1 (sizing a
base address register); QEMU: docs/specs/standard-vga.rst (ids and BAR 0 of the display).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from vramtap.machine.layout import PORT_PCI_ADDRESS, PORT_PCI_DATA, VRAM_BASE, VRAM_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable

_ENABLE: Final = 1 << 31
_PREFETCHABLE: Final = 0x8
_ALL_ONES: Final = 0xFFFF_FFFF
_BAR0: Final = 0x10
_DISPLAY: Final = 0x02 << 11
"""Bus 0, device 2, function 0, in bits 8 to 23 of the address register."""
_MEMORY_AND_IO: Final = 0x0003
"""Command register: memory and I/O access are on, as firmware leaves them."""


def _header(vendor: int, device: int, base_class: int, bar0: int = 0) -> bytes:
    """Return 256 bytes of configuration space, type 0."""
    start = struct.pack("<HHHHBBBBBBBB", vendor, device, _MEMORY_AND_IO, 0, 0, 0, 0, base_class, 0, 0, 0, 0)
    return (start + struct.pack("<I", bar0)).ljust(256, b"\0")


class PciDevice:
    """The address and data ports. A guest can size BAR 0, but cannot move the display."""

    def __init__(self) -> None:
        self.ports: Iterable[int] = (
            *range(PORT_PCI_ADDRESS, PORT_PCI_ADDRESS + 4),
            *range(PORT_PCI_DATA, PORT_PCI_DATA + 4),
        )
        self._address = 0
        self._sizing = False
        self._spaces = {
            0: _header(0x8086, 0x1237, 0x06),
            _DISPLAY: _header(0x1234, 0x1111, 0x03, VRAM_BASE | _PREFETCHABLE),
        }

    def read(self, port: int, size: int) -> int:
        """Return the address as written, or the register it selects; ones if there is no such device."""
        if port < PORT_PCI_DATA:
            return self._address >> (port - PORT_PCI_ADDRESS) * 8
        space = self._spaces.get(self._address & 0xFF_FF00)
        if not self._address & _ENABLE or space is None:
            return ~0
        register = self._address & 0xFC
        whole = int.from_bytes(space[register : register + 4], "little")
        if self._sizing and self._at_bar0():
            whole = (_ALL_ONES & ~(VRAM_BYTES - 1)) | _PREFETCHABLE
        return whole >> (port - PORT_PCI_DATA) * 8

    def write(self, port: int, size: int, value: int) -> None:
        """Set the address, by 32 bits only, or start sizing BAR 0 by writing ones to it."""
        if port == PORT_PCI_ADDRESS and size == 4:
            # Bits 24 to 30 and the lowest two are reserved and read as zero.
            self._address = value & (_ENABLE | 0xFF_FFFC)
        elif port >= PORT_PCI_DATA and self._address & _ENABLE and self._at_bar0():
            self._sizing = value | 0xF == _ALL_ONES

    def _at_bar0(self) -> bool:
        return self._address & 0xFF_FFFC == _DISPLAY | _BAR0
