"""Memory of the built-in VM: RAM and video RAM as pages of this process, and a log of what devices write."""

from __future__ import annotations

import mmap
import threading
from typing import TYPE_CHECKING, Final

import numpy as np

from vramtap.concurrency import Observers
from vramtap.machine.layout import RAM_BYTES, VRAM_BASE, VRAM_BYTES
from vramtap.pages import NO_PAGES, PAGE_SIZE, PageRuns

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


class DeviceLog:
    """Pages of the video RAM that devices have written, for one reader.

    A device's store goes through neither a page table of the guest nor a memory slot of KVM. Dirty bits and
    KVM's log therefore miss it, and a tracker that reads those adds the pages of this log.

    `GuestMemory.log_device_writes` makes it.

    Args:
        memory: Of the machine.
        on_write: Called after pages were added, on the thread whose port access caused the device's store.
    """

    def __init__(self, memory: GuestMemory, on_write: Callable[[], None]) -> None:
        self._lock = threading.Lock()
        self._pages = NO_PAGES
        self._on_write = on_write
        self._remove = memory.watch_device_writes(self._add)

    def take(self) -> PageRuns:
        """Return the pages of the video RAM written since the last call."""
        with self._lock:
            pages, self._pages = self._pages, NO_PAGES
            return pages

    def close(self) -> None:
        """Stop recording; harmless when called twice."""
        self._remove()

    def _add(self, runs: PageRuns) -> None:
        with self._lock:
            self._pages = self._pages.union(runs)
        self._on_write()


class GuestMemory:
    """RAM at guest-physical 0 and video RAM at `VRAM_BASE`, in anonymous memory of this process.

    Attributes:
        ram: Shape `(RAM_BYTES,)`, uint8, writable.
        vram: Shape `(VRAM_BYTES,)`, uint8, writable. A device that stores here calls `wrote` afterwards.
    """

    def __init__(self) -> None:
        # The arrays own the mappings: the pages live as long as any view of them and any CPU's mapping.
        self.ram: Final[NDArray[np.uint8]] = np.frombuffer(mmap.mmap(-1, RAM_BYTES), dtype=np.uint8)
        self.vram: Final[NDArray[np.uint8]] = np.frombuffer(mmap.mmap(-1, VRAM_BYTES), dtype=np.uint8)
        self._device_watchers: Observers[Callable[[PageRuns], None]] = Observers()

    def log_device_writes(self, on_write: Callable[[], None] = lambda: None) -> DeviceLog:
        """Return a log that records, from now on, what devices write; see `DeviceLog`."""
        return DeviceLog(self, on_write)

    def watch_device_writes(self, callback: Callable[[PageRuns], None]) -> Callable[[], None]:
        """Call back after each store of a device, with pages relative to the video RAM.

        The call comes on the thread whose port access caused the store, before the guest runs on.

        Returns:
            A function that removes the callback; harmless when called twice.
        """
        return self._device_watchers.add(callback)

    def wrote(self, first_byte: int, size_bytes: int) -> None:
        """Report a store by a device to these bytes of the video RAM, before the guest runs on."""
        if size_bytes > 0:
            runs = PageRuns([(first_byte // PAGE_SIZE, -(-(first_byte + size_bytes) // PAGE_SIZE))])
            self._device_watchers.notify(runs)

    def store(self, address: int, data: bytes) -> None:
        """Write bytes to RAM at a guest-physical address, before the guest runs.

        Raises:
            ValueError: they do not fit.
        """
        if not 0 <= address <= address + len(data) <= RAM_BYTES:
            raise ValueError(f"{len(data)} bytes at {address:#x} do not fit into RAM")
        self.ram[address : address + len(data)] = np.frombuffer(data, dtype=np.uint8)

    def words(self, address: int, count: int) -> NDArray[np.uint64]:
        """Return a view of 64-bit words at a guest-physical address.

        Returns:
            Shape `(count,)`, uint64, writable.

        Raises:
            ValueError: the address is no multiple of 8, or the words lie neither all in RAM nor all in video
                RAM.
        """
        size = count * 8
        if address % 8 == 0 and count >= 0:
            if address >= 0 and address + size <= RAM_BYTES:
                return self.ram[address : address + size].view(np.uint64)
            if address >= VRAM_BASE and address + size <= VRAM_BASE + VRAM_BYTES:
                offset = address - VRAM_BASE
                return self.vram[offset : offset + size].view(np.uint64)
        raise ValueError(f"guest-physical {address:#x}+{size:#x}: not a multiple of 8, or no memory there")
