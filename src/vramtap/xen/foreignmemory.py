"""libxenforeignmemory: read-only mappings of another domain's frames.

Facts. A mapping of many frames succeeds even if some frames are missing. Each frame has its own errno, and an
access to the page of a missing frame raises SIGBUS (measured: a framebuffer without a placed BAR gives EINVAL
for each frame). A mapped page stays readable after its domain was destroyed. It keeps the rest of the domain
alive until it is unmapped (measured: the toolstack lists the domain as `(null)`).

Consequence. vramtap must not read a page whose errno is not 0, and must unmap when the domain ends.

Decision. Only `read` gives access to the pages, and it checks the errnos first.
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
"""Most frames per mapping: 1 GiB, more than any video RAM."""
_PROT_READ: Final = 1


class ForeignMemory(Handle):
    """A handle of libxenforeignmemory.

    Hypervisor: Xen 4.7 and later. Privilege: root in dom0.

    Raises:
        NotFound: The library is not installed.
        Refused: This is not dom0, or vramtap has no permission.
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
        """Map a range of guest frames for reading; the range may contain missing frames.

        Cost: 2.6 ms for 768 frames, under emulation.

        Args:
            domid: Domain id.
            first: First guest frame number.
            frames: Number of frames; at most `MAX_MAPPED`.

        Raises:
            ValueError: The range is empty or too long.
            TargetGone: The domain has ended.
            VramtapError: Any other failure.
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
        """Unmap frames that `map` mapped; `FrameMapping.close` calls it."""
        if self._library.xenforeignmemory_unmap(self.handle, ctypes.c_void_p(address), frames):
            raise_errno("xenforeignmemory_unmap", f"{frames} pages", ctypes.get_errno())


class FrameMapping:
    """Read-only mapping of a domain's frames; the result of `ForeignMemory.map`.

    Args:
        memory: The handle; it must stay open longer than the mapping.
        address: Address of the first page in this process.
        errors: Errno of each page, 0 if it is mapped. Shape `(frames,)`, int32.
        where: Domain and frames, for messages.
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
        """Number of missing frames."""
        return int(np.count_nonzero(self._errors))

    def read(self, first: int, last: int, into: NDArray[np.uint8]) -> None:
        """Copy pages `[first, last)` of the mapping.

        Args:
            first: First page.
            last: Page after the last.
            into: Destination, shape `((last - first) * PAGE_SIZE,)`, uint8.

        Raises:
            ValueError: The pages lie outside the mapping.
            VramtapError: A frame is missing, or the mapping was closed.
        """
        if not 0 <= first <= last <= len(self._errors):
            raise ValueError(f"pages [{first}, {last}) of a mapping of {len(self._errors)}")
        if self._address is None:
            raise VramtapError("read", self._where, "it has been unmapped")
        wrong = self._errors[first:last]
        if wrong.any():
            at = first + int(np.flatnonzero(wrong)[0])
            code = int(self._errors[at])
            reason = f"page {at} is missing: {errno.errorcode.get(code, code)}, {os.strerror(code)}"
            raise VramtapError("read", self._where, reason, "wait until the guest has placed its framebuffer")
        into[:] = self._bytes[first * PAGE_SIZE : last * PAGE_SIZE]

    def close(self) -> None:
        """Unmap the frames; repeated calls do nothing."""
        address, self._address = self._address, None
        if address is not None:
            self._bytes = np.empty(0, dtype=np.uint8)
            self._memory.unmap(address, len(self._errors))
