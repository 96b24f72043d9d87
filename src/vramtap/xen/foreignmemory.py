"""libxenforeignmemory: frames of another domain, mapped to be read.

Facts. A mapping of many frames succeeds although some of them are not there; each has an errno of its own,
and a touch of its page is SIGBUS (measured: a framebuffer whose BAR is not placed gives EINVAL for each). A
mapped page stays readable after its domain was destroyed, and keeps the rest of the domain in being until it
is unmapped (measured: it is listed as `(null)`).

Consequence. No page may be read whose errno is not 0; and mappings must go when the domain has.

Decision. The pages are handed out only through `read`, which looks first.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import TYPE_CHECKING, Final

import numpy as np

from vramtap.errors import VramtapError
from vramtap.pages import PAGE_SIZE
from vramtap.xen.library import FOREIGNMEMORY, Handle, quiet_logger, raise_errno

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_MAPPED: Final = 1 << 18
"""Frames mapped at most, 1 GiB: more than any video RAM."""
_PROT_READ: Final = 1


class ForeignMemory(Handle):
    """A handle of libxenforeignmemory.

    Hypervisor: Xen 4.7 and later. Privilege: root in dom0.

    Raises:
        NotFound: the library is not installed.
        Refused: no dom0, or no permission.
    """

    def __init__(self) -> None:
        library = FOREIGNMEMORY.load()
        super().__init__(library, "xenforeignmemory", quiet_logger(), ctypes.c_uint(0))
        library.xenforeignmemory_map.restype = ctypes.c_void_p
        library.xenforeignmemory_map.argtypes = [
            ctypes.c_void_p,
            ctypes.c_uint32,
            ctypes.c_int,
            ctypes.c_size_t,
            ctypes.c_void_p,
            ctypes.c_void_p,
        ]
        library.xenforeignmemory_unmap.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]

    def map(self, domid: int, first: int, frames: int) -> FrameMapping:
        """Map a range of guest frames, to be read; those that are not there too.

        Cost: 2.6 ms for 768 frames, under emulation.

        Args:
            domid: Of the domain.
            first: Guest frame number.
            frames: How many; at most `MAX_MAPPED`.

        Raises:
            ValueError: none, or too many.
            TargetGone: the domain has ended.
            KernelError: anything else.
        """
        if not 0 < frames <= MAX_MAPPED:
            raise ValueError(f"{frames} frames: 1 to {MAX_MAPPED} can be mapped")
        numbers = np.arange(first, first + frames, dtype=np.uint64)
        errors = np.zeros(frames, dtype=np.int32)
        ctypes.set_errno(0)
        address = self._library.xenforeignmemory_map(
            self.handle, domid, _PROT_READ, frames, numbers.ctypes.data, errors.ctypes.data
        )
        where = f"domain {domid} frames {first:#x}-{first + frames:#x}"
        if not address:
            raise_errno("xenforeignmemory_map", where, ctypes.get_errno())
        return FrameMapping(self, int(address), np.abs(errors), where)

    def unmap(self, address: int, frames: int) -> None:
        """Unmap what `map` mapped; `FrameMapping.close` does."""
        if self._library.xenforeignmemory_unmap(self.handle, ctypes.c_void_p(address), frames):
            raise_errno("xenforeignmemory_unmap", f"{frames} pages", ctypes.get_errno())


class FrameMapping:
    """Frames of a domain, mapped read-only; `ForeignMemory.map` makes it.

    Args:
        memory: Must stay open as long as this.
        address: Of the first page, here.
        errors: An errno for each page, 0 where it is mapped. Shape `(frames,)`.
        where: What messages call it.
    """

    def __init__(self, memory: ForeignMemory, address: int, errors: NDArray[np.int32], where: str) -> None:
        self._memory = memory
        self._where = where
        self._errors = errors
        size = len(errors) * PAGE_SIZE
        self._address: int | None = address
        self._bytes: NDArray[np.uint8] = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    @property
    def missing(self) -> int:
        """How many frames are not there."""
        return int(np.count_nonzero(self._errors))

    def read(self, first: int, last: int, into: NDArray[np.uint8]) -> None:
        """Copy pages `[first, last)`.

        Args:
            first: Page of the mapping.
            last: Page after the last.
            into: Shape `((last - first) * PAGE_SIZE,)`.

        Raises:
            ValueError: the pages are not of this mapping.
            VramtapError: a frame is not there, or the mapping was closed.
        """
        if not 0 <= first <= last <= len(self._errors):
            raise ValueError(f"pages [{first}, {last}) of a mapping of {len(self._errors)}")
        if self._address is None:
            raise VramtapError("read", self._where, "it has been unmapped")
        wrong = self._errors[first:last]
        if wrong.any():
            at = first + int(np.flatnonzero(wrong)[0])
            code = int(self._errors[at])
            reason = f"page {at} is not there: {errno.errorcode.get(code, code)}, {os.strerror(code)}"
            raise VramtapError("read", self._where, reason, "has the guest placed its framebuffer?")
        into[:] = self._bytes[first * PAGE_SIZE : last * PAGE_SIZE]

    def close(self) -> None:
        """Unmap; harmless twice."""
        address, self._address = self._address, None
        if address is not None:
            self._bytes = np.empty(0, dtype=np.uint8)
            self._memory.unmap(address, len(self._errors))
