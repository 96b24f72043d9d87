"""Boot data: the page tables, descriptors and `BootInfo` that a guest finds in RAM when it starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from vramtap.errors import UsageError
from vramtap.machine.layout import (
    BOOT_INFO,
    BOOT_MAGIC,
    BOOT_PDPT,
    BOOT_PDS,
    BOOT_PML4,
    COMMAND_LINE,
    COMMAND_LINE_BYTES,
    GDT,
    RAM_BYTES,
    VRAM_BASE,
    VRAM_BYTES,
    BootInfo,
)
from vramtap.pages import PAGE_SIZE

if TYPE_CHECKING:
    from vramtap.machine.memory import GuestMemory

_PRESENT_WRITABLE: Final = 0x3
_LARGE: Final = 0x80
"""PS in an entry of a page directory: the entry maps 2 MiB (Intel SDM volume 3, table 4-18)."""
_ENTRIES: Final = PAGE_SIZE // 8
_DIRECTORIES: Final = 4
_LARGE_SHIFT: Final = 21
DESCRIPTORS: Final = (0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF)
"""Null; code, 64 bits, ring 0; data, ring 0: flat, accessed (Intel SDM volume 3, 3.4.5)."""


def prepare(memory: GuestMemory, command_line: str) -> None:
    """Write the boot data that `machine.layout` describes.

    Raises:
        UsageError: the command line is too long, or is not printable ASCII.
    """
    encoded = command_line.encode("ascii", "replace")
    if not command_line.isascii() or (command_line and not command_line.isprintable()):
        raise UsageError("command line", repr(command_line), "is not printable ASCII")
    if len(encoded) >= COMMAND_LINE_BYTES:
        raise UsageError(
            "command line",
            repr(command_line[:40]) + "...",
            f"is longer than {COMMAND_LINE_BYTES - 1} characters",
        )
    memory.words(BOOT_PML4, 1)[0] = BOOT_PDPT | _PRESENT_WRITABLE
    directories = BOOT_PDS + np.arange(_DIRECTORIES, dtype=np.uint64) * PAGE_SIZE
    memory.words(BOOT_PDPT, _DIRECTORIES)[:] = directories | _PRESENT_WRITABLE
    pages = np.arange(_DIRECTORIES * _ENTRIES, dtype=np.uint64) << np.uint64(_LARGE_SHIFT)
    memory.words(BOOT_PDS, len(pages))[:] = pages | np.uint64(_PRESENT_WRITABLE | _LARGE)
    memory.words(GDT, len(DESCRIPTORS))[:] = np.array(DESCRIPTORS, dtype=np.uint64)
    info = BootInfo(
        magic=BOOT_MAGIC,
        ram_bytes=RAM_BYTES,
        vram_base=VRAM_BASE,
        vram_bytes=VRAM_BYTES,
        command_line=COMMAND_LINE,
    )
    info.size = len(bytes(info))
    memory.store(BOOT_INFO, bytes(info))
    memory.store(COMMAND_LINE, encoded + b"\0")
