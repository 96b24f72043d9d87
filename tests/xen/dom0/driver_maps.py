"""Maps a domain's frames for the tests.

A reference must not use the code under test, so this module calls libxenforeignmemory itself.

Source: Xen, tools/include/xenforeignmemory.h (4.17).
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections import Counter
from typing import TYPE_CHECKING, Final

from xen.dom0.driver_errors import DriverError

if TYPE_CHECKING:
    from types import TracebackType

PAGE: Final = mmap.PAGESIZE


def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libxenforeignmemory.so.1", use_errno=True)
    except OSError as error:
        raise DriverError(f"libxenforeignmemory.so.1: {error} (this runs in dom0 only)") from error
    library.xenforeignmemory_open.restype = ctypes.c_void_p
    library.xenforeignmemory_open.argtypes = (ctypes.c_void_p, ctypes.c_uint)
    library.xenforeignmemory_close.argtypes = (ctypes.c_void_p,)
    library.xenforeignmemory_map.restype = ctypes.c_void_p
    library.xenforeignmemory_map.argtypes = (
        ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p,
    )  # fmt: skip
    library.xenforeignmemory_unmap.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    return library


class ForeignFrames:
    """Consecutive guest frames of one domain in this process's memory, until closed.

    Args:
        domid: The domain.
        first: The first guest frame number.
        count: The number of frames.
        writable: Whether this process may write them.

    Raises:
        DriverError: The library or the hypervisor refuses, or a single frame cannot be mapped.
    """

    def __init__(self, domid: int, first: int, count: int, *, writable: bool = False) -> None:
        self._what = f"frames {first:#x}+{count:#x} of domain {domid}"
        self._count = count
        self._address: int | None = None
        self._library = _library()
        self._handle = self._library.xenforeignmemory_open(None, 0)
        if not self._handle:
            raise DriverError(f"xenforeignmemory_open: {os.strerror(ctypes.get_errno())} (root in dom0?)")
        numbers = (ctypes.c_uint64 * count)(*range(first, first + count))
        errors = (ctypes.c_int * count)()
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        self._address = self._library.xenforeignmemory_map(
            self._handle, domid, protection, count, numbers, errors
        )
        if not self._address:
            number = ctypes.get_errno()
            self.close()
            raise DriverError(f"xenforeignmemory_map {self._what}: {os.strerror(number)}")
        # Access to a missing frame raises SIGBUS, which would kill the test without a report.
        failed = Counter(errno.errorcode.get(-error, str(error)) for error in errors if error)
        if failed:
            self.close()
            raise DriverError(f"xenforeignmemory_map {self._what}: single frames failed: {dict(failed)}")

    @property
    def address(self) -> int:
        """Address of the mapping in this process.

        Raises:
            DriverError: The mapping is closed.
        """
        if self._address is None:
            raise DriverError(f"{self._what}: no longer mapped")
        return self._address

    def read(self, offset: int = 0, size: int | None = None) -> bytes:
        """Return a copy of `size` bytes from `offset`; without a size, all bytes to the end.

        Raises:
            DriverError: The range is not inside the mapping, or the mapping is closed.
        """
        whole = self._count * PAGE
        size = whole - offset if size is None else size
        if not 0 <= offset <= offset + size <= whole:
            raise DriverError(f"{self._what}: bytes {offset:#x}+{size:#x} are not all inside")
        return ctypes.string_at(self.address + offset, size)

    def close(self) -> None:
        """Unmap the frames. A destroyed domain stays in Xen's list until its last frame is unmapped."""
        address, self._address = self._address, None
        if address:
            self._library.xenforeignmemory_unmap(self._handle, address, self._count)
        handle, self._handle = self._handle, None
        if handle:
            self._library.xenforeignmemory_close(handle)

    def __enter__(self) -> ForeignFrames:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
