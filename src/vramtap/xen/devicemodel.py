"""libxendevicemodel: the calls a device model makes for its domain, of which one tells the pages written.

Facts. `xendevicemodel_track_dirty_vram(domid, first, nr, bitmap)` reads and clears, in one call, which of
`nr` frames were written (Xen: xen/arch/x86/hvm/dm.c). A domain has one tracked range, whoever asks: a call
with another range begins anew. The first call of a range answers ENODATA and leaves the bitmap alone under
shadow paging, and sets every bit under hardware-assisted paging. The kernel passes on a buffer of one page at
most, so 32,768 frames; a longer range is E2BIG. Stopping is `nr` = 0: with a null pointer it fails with
EFAULT before the hypervisor sees it, and goes on; so does one that begins a page (all measured on 4.17).

Consequence. A caller who always asks for the range of another caller shares its bits and loses some of them.

Decision. The range is the caller's to choose; here it is only bounded. Stopping passes a pointer into the
middle of a page.
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
"""Frames that one call can ask about: bits of a page, the longest buffer the kernel passes on (Linux:
drivers/xen/privcmd.c, dm_op_buf_max_size)."""
MAX_FRAME: Final = 1 << 40
"""Past every frame number of x86-64 (52 bits of physical address)."""
_MIDDLE_OF_A_PAGE: Final = 64


class DeviceModel(Handle):
    """A handle of libxendevicemodel.

    Hypervisor: Xen 4.9 and later. Privilege: root in dom0.

    Raises:
        NotFound: the library is not installed.
        Refused: no dom0, or no permission.
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
        """Read and clear which frames were written since the last call; begin to track them at the first.

        Cost: 0.5-1.5 ms for 768 frames, none or all of them written, under emulation; the domain is paused
        meanwhile (hardware-assisted paging) or its page tables are locked (shadow paging).

        Args:
            domid: Of the domain.
            first: Guest frame number.
            frames: How many; at most `MAX_PAGES`.
            bitmap: Filled: the lowest bit of the first byte is the first frame. Shape `(bytes,)`, of at least
                `frames` bits, zero: the hypervisor leaves it alone where it returns False.

        Returns:
            Whether the hypervisor can tell; False when it has only begun to (ENODATA).

        Raises:
            ValueError: the range is empty or too long, or the bitmap too short.
            TargetGone: the domain has ended.
            KernelError: anything else; what had been written may be forgotten then.
        """
        if not 0 < frames <= MAX_PAGES or not 0 <= first < MAX_FRAME:
            raise ValueError(f"{frames} frames from {first:#x}: one call takes 1 to {MAX_PAGES}")
        if len(bitmap) * 8 < frames or not bitmap.flags.c_contiguous:
            raise ValueError(f"a bitmap of {len(bitmap)} bytes does not hold {frames} bits")
        ctypes.set_errno(0)
        if self._track(self.handle, domid, first, frames, bitmap.ctypes.data) == 0:
            return True
        number = ctypes.get_errno()
        if number == errno.ENODATA:
            return False
        where = f"domain {domid} frames {first:#x}-{first + frames:#x}"
        raise_errno("xendevicemodel_track_dirty_vram", where, number)

    def stop_dirty_vram(self, domid: int) -> None:
        """Track nothing in a domain any more.

        Raises:
            TargetGone: the domain has ended.
            KernelError: anything else.
        """
        room = np.zeros(2 * 4096, dtype=np.uint8)
        address = room.ctypes.data
        nowhere = address + -address % 4096 + _MIDDLE_OF_A_PAGE
        ctypes.set_errno(0)
        if self._track(self.handle, domid, 0, 0, nowhere):
            raise_errno("xendevicemodel_track_dirty_vram", f"domain {domid}, to stop", ctypes.get_errno())
