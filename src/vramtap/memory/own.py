"""Memory of this process as an address space."""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING, Any, Final

from vramtap.memory.extent import Extent
from vramtap.pages import PAGE_SIZE, PageRuns

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vramtap.memory.events import WriteEvents


class OwnSpace:
    """Memory of this process, read by copying.

    Args:
        keep: Owner of the memory; the space keeps it alive.
    """

    frames: Final = None

    def __init__(self, keep: object = None) -> None:
        self.name = "this process"
        self.pid: int | None = os.getpid()
        self.bytes_read: int = 0
        self._keep = keep

    @property
    def events(self) -> WriteEvents | None:
        """None: a write to plain memory causes no event."""
        return None

    def read_runs(self, address: int, runs: PageRuns, into: NDArray[np.uint8], base_page: int) -> None:
        """Copy whole pages; see `AddressSpace.read_runs`."""
        for first, last in runs:
            size = (last - first) * PAGE_SIZE
            ctypes.memmove(
                into.ctypes.data + (first - base_page) * PAGE_SIZE, address + first * PAGE_SIZE, size
            )
            self.bytes_read += size


def extent_of(array: NDArray[Any]) -> tuple[Extent, int]:
    """Return the pages that a writable array of this process lies in.

    Args:
        array: C-contiguous and writable, any dtype and shape, at least one byte.

    Returns:
        The extent, rounded outward to whole pages, and the offset of the array's first byte in the extent's
        first page, `0 <= offset < PAGE_SIZE`.

    Raises:
        ValueError: the array is empty, read-only or not contiguous.
    """
    if not array.flags.c_contiguous or not array.flags.writeable or not array.nbytes:
        raise ValueError(
            f"cannot track an array of {array.nbytes} bytes: it must be C-contiguous, writable and not empty"
        )
    start = array.ctypes.data
    first = start // PAGE_SIZE
    last = -(-(start + array.nbytes) // PAGE_SIZE)
    return Extent(OwnSpace(keep=array), first * PAGE_SIZE, last - first), start % PAGE_SIZE
