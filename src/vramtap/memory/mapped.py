"""Memory behind a file (a regular file, tmpfs, memfd) or a SysV segment, as an address space."""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING, Final

from vramtap.errors import NotFound, Refused, TargetGone
from vramtap.linux.calls import LIBC, error_for, raise_errno
from vramtap.pages import PAGE_SIZE, PageRuns

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SHM_RDONLY: Final = 0o10000
LIBC.shmat.restype = ctypes.c_void_p
LIBC.shmat.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
LIBC.shmdt.argtypes = [ctypes.c_void_p]


class FileSpace:
    """The bytes of a file; an extent's address is the offset in it.

    Read with pread, not through a mapping: a file can be cut short by its owner at any moment, and a
    touch past its end would kill this process with SIGBUS, where pread returns a short count. The copy
    costs the same as one out of a mapping, since the pixels are copied once in either case.

    Args:
        path: Of the file; `/proc/PID/fd/N` for a memfd.

    Raises:
        NotFound: no such file.
        Refused: no permission.
    """

    def __init__(self, path: str) -> None:
        self.name = path
        self.pid: int | None = None
        self.bytes_read = 0
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise NotFound("open", path, "no such file") from error
        except PermissionError as error:
            raise Refused("open", path, "permission denied", "needs read permission on the file") from error
        except OSError as error:
            raise error_for("open", path, error.errno or 0) from error

    @property
    def size_bytes(self) -> int:
        """How long the file is now."""
        return os.fstat(self._fd).st_size

    def read_runs(self, address: int, runs: PageRuns, into: NDArray[np.uint8], base_page: int) -> None:
        """Copy whole pages; see `AddressSpace.read_runs`. Past a last partial page the bytes are zero."""
        view = memoryview(into.data)
        size = self.size_bytes
        for first, last in runs:
            at, want = address + first * PAGE_SIZE, (last - first) * PAGE_SIZE
            have = min(want, size - at)
            if have <= want - PAGE_SIZE:
                raise TargetGone("read", self.name, f"cut short to {size} bytes, {at + want} wanted")
            target = view[(first - base_page) * PAGE_SIZE :][:want]
            got = 0
            while got < have:
                step = self._step(target[got:have], at + got)
                if not step:
                    raise TargetGone("read", self.name, f"ended at byte {at + got} while it was read")
                got += step
            into[(first - base_page) * PAGE_SIZE + have : (first - base_page) * PAGE_SIZE + want] = 0
            self.bytes_read += have

    def _step(self, into: memoryview, offset: int) -> int:
        try:
            return os.preadv(self._fd, [into], offset)
        except OSError as error:
            raise error_for("preadv", f"{self.name} at {offset}", error.errno or 0) from error

    def close(self) -> None:
        """Close the file; harmless twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class SysvSpace:
    """A System V shared memory segment, attached read-only; an extent's address is the offset in it.

    Kernel: shmat(2); needs read permission on the segment. A segment cannot shrink, so a mapping is safe.

    Args:
        shmid: Its id.
        size_bytes: How much of it will be read at most.

    Raises:
        KernelError: no such segment, no permission.
    """

    def __init__(self, shmid: int, size_bytes: int) -> None:
        self.name = f"shmid {shmid}"
        self.pid: int | None = None
        self.bytes_read = 0
        self._size_bytes = size_bytes
        ctypes.set_errno(0)
        at = LIBC.shmat(shmid, None, _SHM_RDONLY)
        if at is None or at == ctypes.c_void_p(-1).value:
            raise_errno("shmat", self.name, ctypes.get_errno())
        self._at: int | None = int(at)

    def read_runs(self, address: int, runs: PageRuns, into: NDArray[np.uint8], base_page: int) -> None:
        """Copy whole pages; see `AddressSpace.read_runs`."""
        if self._at is None:
            raise TargetGone("read", self.name, "detached")
        if runs and address + int(runs.array[-1, 1]) * PAGE_SIZE > self._size_bytes:
            raise ValueError(f"{self.name}: read past its {self._size_bytes} bytes")
        for first, last in runs:
            size = (last - first) * PAGE_SIZE
            ctypes.memmove(
                into.ctypes.data + (first - base_page) * PAGE_SIZE,
                self._at + address + first * PAGE_SIZE,
                size,
            )
            self.bytes_read += size

    def close(self) -> None:
        """Detach; harmless twice."""
        at, self._at = self._at, None
        if at is not None:
            LIBC.shmdt(at)
