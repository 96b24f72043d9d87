"""libxendevicemodel: calls of a device model for its domain; one of them returns the written pages.

Facts. `xendevicemodel_track_dirty_vram(domid, first, nr, bitmap)` reads and clears in one call which of `nr`
frames were written (Xen: xen/arch/x86/hvm/dm.c). A domain has one tracked range for all callers: a call with
another range restarts tracking. The first call for a range gives ENODATA and leaves the bitmap unchanged
under shadow paging; it sets every bit under hardware-assisted paging. The kernel passes on a buffer of at
most one page, for 32,768 frames; a longer range gives E2BIG. A call with `nr` = 0 stops tracking. With a null
pointer, or a pointer to the beginning of a page, that call fails with EFAULT before the hypervisor sees it,
and tracking continues (all measured on 4.17).

Consequence. Two callers that use the same range share its bits, and each loses some of them.

Decision. The caller chooses the range; this module only bounds it. `stop_dirty_vram` passes a pointer into
the middle of a page.
"""

from __future__ import annotations

import ctypes
import errno
from typing import TYPE_CHECKING, Final

import numpy as np

from vramtap.xen.library import DEVICEMODEL, Handle, quiet_logger, raise_errno

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_PAGES: Final = 32768
"""Most frames per call: the bits of one page, the longest buffer that the kernel passes on (Linux:
drivers/xen/privcmd.c, dm_op_buf_max_size)."""
MAX_FRAME: Final = 1 << 40
"""First invalid frame number on x86-64 (52 bits of physical address)."""
_MIDDLE_OF_A_PAGE: Final = 64


class DeviceModel(Handle):
    """A handle of libxendevicemodel.

    Hypervisor: Xen 4.9 and later. Privilege: root in dom0.

    Raises:
        NotFound: The library is not installed.
        Refused: This is not dom0, or vramtap has no permission.
    """

    def __init__(self) -> None:
        library = DEVICEMODEL.load()
        super().__init__(library, "xendevicemodel", quiet_logger(), ctypes.c_uint(0))
        self._track = library.xendevicemodel_track_dirty_vram
        self._track.restype = ctypes.c_int
        self._track.argtypes = [
            ctypes.c_void_p,
            ctypes.c_uint16,
            ctypes.c_uint64,
            ctypes.c_uint32,
            ctypes.c_void_p,
        ]

    def track_dirty_vram(self, domid: int, first: int, frames: int, bitmap: NDArray[np.uint8]) -> bool:
        """Read and clear which frames were written since the last call; the first call starts tracking.

        Cost: 0.5-1.5 ms for 768 frames, none or all of them written, under emulation. Meanwhile the
            hypervisor pauses the domain (hardware-assisted paging) or locks its page tables (shadow paging).

        Args:
            domid: Domain id.
            first: First guest frame number.
            frames: Number of frames; at most `MAX_PAGES`.
            bitmap: Receives the result; the lowest bit of the first byte is the first frame. Shape
                `(bytes,)`, at least `frames` bits, all zero: the hypervisor may leave it unchanged.

        Returns:
            True if the bitmap holds the result; False if tracking has only started (ENODATA).

        Raises:
            ValueError: The range is empty or too long, or the bitmap is too short.
            TargetGone: The domain has ended.
            VramtapError: Any other failure; the hypervisor may have cleared the bits.
        """
        if not 0 < frames <= MAX_PAGES or not 0 <= first < MAX_FRAME:
            raise ValueError(f"{frames} frames from {first:#x}: one call takes 1 to {MAX_PAGES}")
        if len(bitmap) * 8 < frames or not bitmap.flags.c_contiguous:
            raise ValueError(f"a bitmap of {len(bitmap)} bytes does not hold {frames} bits")
        ctypes.set_errno(0)
        if self._track(self.handle, domid, first, frames, bitmap.ctypes.data):
            number = ctypes.get_errno()
            if number != errno.ENODATA:
                where = f"domain {domid} frames {first:#x}-{first + frames:#x}"
                raise_errno("xendevicemodel_track_dirty_vram", where, number)
            return False
        return True

    def stop_dirty_vram(self, domid: int) -> None:
        """Stop tracking in a domain.

        Raises:
            TargetGone: The domain has ended.
            VramtapError: Any other failure.
        """
        room = np.zeros(2 * 4096, dtype=np.uint8)
        address = room.ctypes.data
        nowhere = address + -address % 4096 + _MIDDLE_OF_A_PAGE
        ctypes.set_errno(0)
        if self._track(self.handle, domid, 0, 0, nowhere):
            raise_errno("xendevicemodel_track_dirty_vram", f"domain {domid}, to stop", ctypes.get_errno())
