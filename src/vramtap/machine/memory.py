"""The machine's memory: RAM and video RAM as pages of this process, and what devices wrote into them."""

from __future__ import annotations

import mmap
import threading
from typing import TYPE_CHECKING, Final

import numpy as np

from vramtap.machine.layout import RAM_BYTES, VRAM_BASE, VRAM_BYTES
from vramtap.pages import NO_PAGES, PAGE_SIZE, PageRuns

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


class DeviceLog:
    """Pages of the video RAM that a device wrote, for one reader.

    A store by a device goes through no page table of the guest and no slot of KVM: neither dirty bits nor
    KVM's log see it, so a tracker that reads those has to add these pages.

    Args:
        noted: Called after pages were noted, on the thread whose access made the device store.
    """

    def __init__(self, noted: Callable[[], None] = lambda: None) -> None:
        self._lock = threading.Lock()
        self._pages = NO_PAGES
        self._noted = noted

    def note(self, runs: PageRuns) -> None:
        """These pages, relative to the video RAM, were written."""
        with self._lock:
            self._pages = self._pages.union(runs)
        self._noted()

    def take(self) -> PageRuns:
        """What was written since the last call."""
        with self._lock:
            pages, self._pages = self._pages, NO_PAGES
            return pages


class GuestMemory:
    """RAM at guest-physical 0 and video RAM at `VRAM_BASE`, in anonymous memory of this process.

    Attributes:
        ram: Shape `(RAM_BYTES,)`, writable.
        vram: Shape `(VRAM_BYTES,)`, writable. A device that stores here calls `fill` or `wrote`.
    """

    def __init__(self) -> None:
        # Owned by the arrays: the pages stay as long as any view of them, or a CPU's mapping, is alive.
        self.ram: Final[NDArray[np.uint8]] = np.frombuffer(mmap.mmap(-1, RAM_BYTES), dtype=np.uint8)
        self.vram: Final[NDArray[np.uint8]] = np.frombuffer(mmap.mmap(-1, VRAM_BYTES), dtype=np.uint8)
        self._logs: list[DeviceLog] = []

    def follow_devices(self, noted: Callable[[], None] = lambda: None) -> DeviceLog:
        """From here on, what devices write is noted for the caller too; see `DeviceLog`."""
        log = DeviceLog(noted)
        self._logs.append(log)
        return log

    def unfollow(self, log: DeviceLog) -> None:
        """Nothing is noted for it any more; harmless twice."""
        if log in self._logs:
            self._logs.remove(log)

    def wrote(self, first_byte: int, size_bytes: int) -> None:
        """A device has stored into these bytes of the video RAM: called before the guest goes on."""
        if size_bytes > 0:
            runs = PageRuns([(first_byte // PAGE_SIZE, -(-(first_byte + size_bytes) // PAGE_SIZE))])
            for log in list(self._logs):
                log.note(runs)

    def store(self, address: int, data: bytes) -> None:
        """Put bytes into RAM at a guest-physical address, before the guest runs.

        Raises:
            ValueError: they do not fit.
        """
        if not 0 <= address <= address + len(data) <= RAM_BYTES:
            raise ValueError(f"{len(data)} bytes at {address:#x} do not fit the RAM")
        self.ram[address : address + len(data)] = np.frombuffer(data, dtype=np.uint8)

    def words(self, address: int, count: int) -> NDArray[np.uint64]:
        """A view of `count` 64-bit words at a guest-physical address.

        Raises:
            ValueError: not aligned to 8, or not wholly in RAM or video RAM.
        """
        size = count * 8
        if address % 8 == 0 and count >= 0:
            if address >= 0 and address + size <= RAM_BYTES:
                return self.ram[address : address + size].view(np.uint64)
            if address >= VRAM_BASE and address + size <= VRAM_BASE + VRAM_BYTES:
                offset = address - VRAM_BASE
                return self.vram[offset : offset + size].view(np.uint64)
        raise ValueError(f"guest-physical {address:#x}+{size:#x}: not aligned, or no memory there")
