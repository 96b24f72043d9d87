"""Memory of another process as an address space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from vramtap.errors import TargetGone
from vramtap.linux.pidfd import PidFd
from vramtap.linux.vm_rw import read_many
from vramtap.pages import PAGE_SIZE, PageRuns

if TYPE_CHECKING:
    from numpy.typing import NDArray


class ProcessSpace:
    """Memory of another process, read with process_vm_readv.

    Args:
        pid: The process.

    Raises:
        TargetGone: no such process.
    """

    events: Final = None
    frames: Final = None

    def __init__(self, pid: int) -> None:
        self.name: str = f"pid {pid}"
        self.pid: int | None = pid
        self.bytes_read: int = 0
        self.pidfd: PidFd = PidFd(pid)

    def read_runs(self, address: int, runs: PageRuns, into: NDArray[np.uint8], base_page: int) -> None:
        """Copy whole pages; see `AddressSpace.read_runs`.

        process_vm_readv takes a process ID, and the kernel may give that ID to a new process. If this process
        still runs after the copy, the bytes are its own.
        """
        spans = runs.array
        lengths = ((spans[:, 1] - spans[:, 0]) * PAGE_SIZE).astype(np.uint64)
        remote = (spans[:, 0] * PAGE_SIZE + address).astype(np.uint64)
        local = ((spans[:, 0] - base_page) * PAGE_SIZE + into.ctypes.data).astype(np.uint64)
        read_many(self.pidfd.pid, remote, lengths, local)
        if not self.pidfd.alive:
            raise TargetGone("read", self.name, "the process has ended")
        self.bytes_read += int(lengths.sum())

    def close(self) -> None:
        """Close the pidfd."""
        self.pidfd.close()
