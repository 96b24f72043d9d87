"""This process's own memory as an address space."""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING, Any

from vramtap.memory.extent import Extent
from vramtap.pages import PAGE_SIZE, PageRuns

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class OwnSpace:
    """Memory of this process, read by copying.

    Args:
        keep: An object that owns the memory; kept alive as long as the space is.
    """

    def __init__(self, keep: object = None) -> None:
        self.name = "this process"
        self.pid: int | None = os.getpid()
        self.bytes_read = 0
        self._keep = keep

    def read_runs(self, address: int, runs: PageRuns, into: NDArray[np.uint8], base_page: int) -> None:
        """Copy whole pages; see `AddressSpace.read_runs`."""
        for first, last in runs:
            size = (last - first) * PAGE_SIZE
            ctypes.memmove(
                into.ctypes.data + (first - base_page) * PAGE_SIZE, address + first * PAGE_SIZE, size
            )
            self.bytes_read += size


def extent_of(array: NDArray[Any]) -> tuple[Extent, int]:
    """The pages that a writable array of this process lies in.

    Args:
        array: C-contiguous and writable, any dtype and shape, at least one byte.

    Returns:
        The extent, rounded outward to whole pages, and the byte offset of the array in it.

    Raises:
        ValueError: the array is empty, read-only or not contiguous.
    """
    if not array.flags.c_contiguous or not array.flags.writeable or not array.nbytes:
        raise ValueError(
            f"array of {array.nbytes} bytes: needs to be C-contiguous, writable and not empty to be tracked"
        )
    start = array.ctypes.data
    first = start // PAGE_SIZE
    last = -(-(start + array.nbytes) // PAGE_SIZE)
    return Extent(OwnSpace(keep=array), first * PAGE_SIZE, last - first), start % PAGE_SIZE
