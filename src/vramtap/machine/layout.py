"""Layout of the built-in VM: guest-physical addresses and I/O ports.

```
0x0000_1000  PML4, PDPT and four PDs of the boot tables: the first 4 GiB, identity-mapped by 2 MiB pages
0x0000_7000  GDT: null, 64-bit code (selector 8), data (selector 16)
0x0000_8000  BootInfo, then the command line
0x0009_0000  top of the boot stack, growing down
0x0010_0000  a flat image; the program headers of an ELF image say where it goes, above 0x10000
0x0400_0000  end of RAM
0xE000_0000  video RAM (BAR 0 of the display at PCI 00:02.0; Bochs: VBE_DISPI_LFB_PHYSICAL_ADDRESS)
```

A guest starts in 64-bit mode with paging on, interrupts off and no IDT. RDI holds the address of `BootInfo`,
RSP the top of the boot stack. The VM delivers no interrupts. Instead `hlt` returns when a device has raised
its line since the last `hlt` returned, whatever the interrupt flag is, and the guest then polls the devices.
An exception that the guest does not handle ends the machine.
"""

from __future__ import annotations

import ctypes
from typing import Final

RAM_BYTES: Final = 64 << 20
VRAM_BASE: Final = 0xE000_0000
VRAM_BYTES: Final = 16 << 20

BOOT_PML4: Final = 0x1000
BOOT_PDPT: Final = 0x2000
BOOT_PDS: Final = 0x3000
"""Four page directories, one page each."""
GDT: Final = 0x7000
CODE_SELECTOR: Final = 0x08
DATA_SELECTOR: Final = 0x10
BOOT_INFO: Final = 0x8000
COMMAND_LINE: Final = 0x8100
COMMAND_LINE_BYTES: Final = 0x700
"""Room for the command line, including its terminating zero."""
BOOT_STACK: Final = 0x9_0000
IMAGE_LOWEST: Final = 0x1_0000
IMAGE_BASE: Final = 0x10_0000

BOOT_CR0: Final = 0x8001_0033
"""PG, WP, NE, ET, MP, PE (Intel SDM volume 3, 2.5)."""
BOOT_CR4: Final = 0x2A0
"""OSFXSR, PGE, PAE."""
BOOT_EFER: Final = 0x501
"""LMA, LME, SCE."""

BOOT_MAGIC: Final = 0x6F62_7476
"""`vtbo` in memory."""


class BootInfo(ctypes.LittleEndianStructure):
    """What the VM tells the guest at its start; `struct boot_info` in the guest's C.

    Attributes:
        magic: `BOOT_MAGIC`.
        size: Size of this structure, bytes.
        ram_bytes: Size of RAM, which begins at address 0.
        vram_base: Guest-physical address of the video RAM.
        vram_bytes: Size of the video RAM.
        command_line: Guest-physical address of a zero-terminated ASCII string.
    """

    _fields_ = (
        ("magic", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("ram_bytes", ctypes.c_uint64),
        ("vram_base", ctypes.c_uint64),
        ("vram_bytes", ctypes.c_uint64),
        ("command_line", ctypes.c_uint64),
    )


PORT_PS2_DATA: Final = 0x60
PORT_PS2_STATUS: Final = 0x64
PORT_RTC_INDEX: Final = 0x70
PORT_RTC_DATA: Final = 0x71
PORT_DEBUG_TEXT: Final = 0xE9
"""Writing a byte adds a character to the guest's log; reading gives 0xE9 (Bochs: port_e9_hack)."""
PORT_FRAME: Final = 0xEA
"""Writing 32 bits reports a drawn frame; the value is its number, counted from 1."""
PORT_WAKE: Final = 0xEE
"""Writing a byte raises a line: the next `hlt` returns at once."""
PORT_EXIT: Final = 0xF4
"""Writing a byte ends the machine with that status (QEMU: isa-debug-exit)."""
PORT_DISPI_INDEX: Final = 0x1CE
PORT_DISPI_DATA: Final = 0x1CF
"""16 bits wide (QEMU: docs/specs/standard-vga; on x86 the data port is at 0x1CF)."""
PORT_PCI_ADDRESS: Final = 0xCF8
PORT_PCI_DATA: Final = 0xCFC
