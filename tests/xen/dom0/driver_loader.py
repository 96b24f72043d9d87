"""Boot loader in dom0: writes a Linux kernel into a guest's memory, where guest/linux.S enters it.

Sources: kernel 6.1, Documentation/x86/boot.rst and zero-page.rst, include/uapi/linux/screen_info.h; VBE 3.0
(ModeInfoBlock); Intel SDM volume 3, 4.5 (page tables).
"""

from __future__ import annotations

import ctypes
import struct
from typing import TYPE_CHECKING, Final

from xen.dom0.driver_domain import wait_for
from xen.dom0.driver_errors import DriverError
from xen.dom0.driver_maps import PAGE, ForeignFrames

if TYPE_CHECKING:
    from pathlib import Path

BOOT_TIMEOUT_S: Final = 90.0
# Addresses in the guest's memory, the same as in linux.S.
_SHARED: Final = 0x10000
_PML4, _PDPT, _PD, _BOOT_PARAMS, _COMMAND_LINE, _LOW_END = range(0x11000, 0x17000, PAGE)
_KERNEL: Final = 0x1000000
_INITRAMFS: Final = 0x5800000
"""After the kernel, whose memory ends below 75 MiB."""
# The shared page.
_MAGIC: Final = 0x314C4C58
_GO, _E820_ENTRIES, _MODE_INFO, _E820 = 0x04, 0x08, 0x100, 0x400
_E820_BYTES: Final = 20
_MOST_E820: Final = 128
# Page table entries.
_TABLE: Final = 3
"""Present, writable."""
_LARGE_PAGE: Final = 0x83
_LARGE_BYTES: Final = 2 << 20
# Members of boot_params.
_AT_E820_ENTRIES, _AT_LOADER, _AT_INITRAMFS, _AT_COMMAND_LINE, _AT_E820 = 0x1E8, 0x210, 0x218, 0x228, 0x2D0
_LOADER_UNKNOWN: Final = 0xFF
_VIDEO_TYPE_VLFB: Final = 0x23
_LFB_UNIT: Final = 1 << 16
_AT_MOST_COPIED: Final = 4 << 20


class Loader:
    """The boot sector of a running guest, waiting on the BIOS's text screen, until closed.

    Args:
        domid: The domain.
        vram_bytes: The size of its video memory.

    Attributes:
        lfb: The physical address of the linear framebuffer.
        width: Width of the mode at the kernel's start, pixels.
        height: Height of that mode, pixels.
        pitch: Stride of a row, bytes.

    Raises:
        DriverError: The guest's memory cannot be mapped, or the boot sector does not start.
    """

    def __init__(self, domid: int, vram_bytes: int) -> None:
        self._domid = domid
        self._vram_bytes = vram_bytes
        self._frames = ForeignFrames(domid, _SHARED // PAGE, (_LOW_END - _SHARED) // PAGE, writable=True)
        try:
            wait_for(
                f"domain {domid}: its boot sector", lambda: self._word(0) == _MAGIC or None, BOOT_TIMEOUT_S
            )
        except BaseException:
            self.close()
            raise
        self.width: int
        self.height: int
        self.pitch: int
        self.lfb: int
        info = self._frames.read(_MODE_INFO, 256)
        self.pitch, self.width, self.height = struct.unpack_from("<3H", info, 0x10)
        (self.lfb,) = struct.unpack_from("<I", info, 0x28)
        self._bpp, self._channels = info[0x19], info[0x1F:0x27]

    def close(self) -> None:
        """Unmap the guest's memory. The guest continues."""
        self._frames.close()

    def boot(self, kernel: Path, initramfs: Path, command_line: str) -> None:
        """Let the boot sector enter the kernel.

        Args:
            kernel: The file from `linux_kernel` in guest/build.py.
            initramfs: An archive for the kernel.
            command_line: The kernel's.

        Raises:
            DriverError: The guest's memory cannot be mapped.
        """
        with kernel.open("rb") as image:
            header = image.read(PAGE)
            self._copy(kernel, PAGE, _KERNEL)
        self._copy(initramfs, 0, _INITRAMFS)
        tables = (
            (_PML4, [_PDPT | _TABLE]),
            (_PDPT, [_PD | _TABLE]),
            (_PD, [at | _LARGE_PAGE for at in range(0, 1 << 30, _LARGE_BYTES)]),
        )
        for place, entries in tables:
            self._write(place, struct.pack(f"<{len(entries)}Q", *entries))
        self._write(_BOOT_PARAMS, self._boot_params(header, initramfs.stat().st_size))
        self._write(_COMMAND_LINE, command_line.encode() + b"\0")
        # Written last, because the boot sector then continues at once. x86 keeps the order of stores.
        self._write(_SHARED + _GO, struct.pack("<I", 1))

    def _boot_params(self, header: bytes, initramfs_bytes: int) -> bytes:
        params = bytearray(header)
        # struct screen_info, for vesafb.
        params[0x0F] = _VIDEO_TYPE_VLFB
        struct.pack_into(
            "<3H2I", params, 0x12, self.width, self.height, self._bpp, self.lfb, self._vram_bytes // _LFB_UNIT
        )
        struct.pack_into("<H", params, 0x24, self.pitch)
        params[0x26:0x2E] = self._channels
        entries = self._word(_E820_ENTRIES)
        if not 0 < entries <= _MOST_E820:
            raise DriverError(f"domain {self._domid}: the BIOS names {entries} ranges of memory")
        params[_AT_E820_ENTRIES] = entries
        table = self._frames.read(_E820, entries * _E820_BYTES)
        params[_AT_E820 : _AT_E820 + len(table)] = table
        params[_AT_LOADER] = _LOADER_UNKNOWN
        struct.pack_into("<2I", params, _AT_INITRAMFS, _INITRAMFS, initramfs_bytes)
        struct.pack_into("<I", params, _AT_COMMAND_LINE, _COMMAND_LINE)
        return bytes(params)

    def _copy(self, path: Path, skip: int, to: int) -> None:
        """Copy a file into the guest's memory, in parts."""
        with path.open("rb") as source:
            source.seek(skip)
            while part := source.read(_AT_MOST_COPIED):
                pages = -(-len(part) // PAGE)
                with ForeignFrames(self._domid, to // PAGE, pages, writable=True) as frames:
                    ctypes.memmove(frames.address, part, len(part))
                to += len(part)

    def _write(self, place: int, content: bytes) -> None:
        if place + len(content) > _LOW_END:
            raise DriverError(f"domain {self._domid}: {len(content)} bytes are too many for {place:#x}")
        ctypes.memmove(self._frames.address + place - _SHARED, content, len(content))

    def _word(self, offset: int) -> int:
        return ctypes.c_uint32.from_address(self._frames.address + offset).value
