"""process_vm_readv: copying another process's memory without stopping it."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Final

import numpy as np

from vramtap.linux.calls import LIBC, raise_errno

if TYPE_CHECKING:
    from numpy.typing import NDArray

IOV_MAX: Final = 1024
"""iovecs a call takes at most (limits.h, UIO_MAXIOV)."""
MAX_CALL_BYTES: Final = 1 << 30
"""Bytes asked for in one call; the kernel stops at 0x7ffff000 (MAX_RW_COUNT)."""

_readv: Final = LIBC.process_vm_readv
_readv.restype = ctypes.c_ssize_t
_readv.argtypes = (
    *(ctypes.c_int, ctypes.c_void_p, ctypes.c_ulong),
    *(ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong),
)


def read_many(
    pid: int, remote: NDArray[np.uint64], lengths: NDArray[np.uint64], local: NDArray[np.uint64]
) -> None:
    """Copy several byte ranges of another process.

    Kernel: process_vm_readv(2), since 3.2, CONFIG_CROSS_MEMORY_ATTACH, ptrace attach rights.
    Cost: a page 2-14 us, 8 MB about 2.6 ms.

    Args:
        pid: Whose memory.
        remote: Addresses there, shape `(n,)`.
        lengths: Bytes of each, shape `(n,)`, each at most 1 GiB.
        local: Addresses in this process that they are copied to, shape `(n,)`; the caller vouches that
            they hold as many bytes.

    Raises:
        TargetGone: no such process.
        KernelError: EFAULT: some of it is not mapped there; EPERM: no ptrace rights.
    """
    first = 0
    while first < len(remote):
        total = np.cumsum(lengths[first : first + IOV_MAX])
        last = first + max(1, int(np.searchsorted(total, MAX_CALL_BYTES, side="right")))
        far = np.stack([remote[first:last], lengths[first:last]], axis=1)
        near = np.stack([local[first:last], lengths[first:last]], axis=1)
        count = len(far)
        wanted = int(lengths[first:last].sum())
        ctypes.set_errno(0)
        got = int(_readv(pid, near.ctypes.data, count, far.ctypes.data, count, 0))
        if got != wanted:
            what = f"pid {pid} {int(remote[first]):#x} (+{wanted} bytes in {count} ranges)"
            # A short count means the range after it could not be read, and carries no errno of its own.
            raise_errno("process_vm_readv", what, ctypes.get_errno() if got < 0 else 14)
        first = last
