"""The hypervisor's log of written frames, read by the tests without any code of vramtap.

Source: Xen, tools/include/xendevicemodel.h, and xen/arch/x86/mm/hap/hap.c, hap_track_dirty_vram (4.17).
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import TYPE_CHECKING, Final

import numpy as np

from xen.dom0.driver_errors import DriverError
from xen.dom0.driver_maps import PAGE

if TYPE_CHECKING:
    from types import TracebackType

    from numpy.typing import NDArray

MOST: Final = PAGE * 8
"""Most pages in one call."""


class DirtyLog:
    """The log of one range of frames.

    Args:
        domid: The domain.
        first: The first guest frame number.
        count: The number of frames.
    """

    def __init__(self, domid: int, first: int, count: int) -> None:
        library = ctypes.CDLL("libxendevicemodel.so.1", use_errno=True)
        library.xendevicemodel_open.restype = ctypes.c_void_p
        library.xendevicemodel_open.argtypes = (ctypes.c_void_p, ctypes.c_uint)
        library.xendevicemodel_close.argtypes = (ctypes.c_void_p,)
        self._track = library.xendevicemodel_track_dirty_vram
        self._track.argtypes = (
            ctypes.c_void_p, ctypes.c_uint16, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_void_p,
        )  # fmt: skip
        self._close = library.xendevicemodel_close
        self._range = domid, first, count
        self._handle = library.xendevicemodel_open(None, 0)
        if not self._handle:
            raise DriverError(f"xendevicemodel_open: {os.strerror(ctypes.get_errno())}")

    def ask(self) -> set[int] | None:
        """Read and clear the log.

        Returns:
            The written pages, counted from the range's start. None if the hypervisor did not track exactly
            this range; it then starts to.
        """
        domid, first, count = self._range
        bits: NDArray[np.uint8] = np.zeros(MOST // 8, np.uint8)
        if self._track(self._handle, domid, first, count, bits.ctypes.data):
            number = ctypes.get_errno()
            if number == errno.ENODATA:
                return None
            raise DriverError(f"track_dirty_vram of domain {domid}: {os.strerror(number)}")
        written = set(np.flatnonzero(np.unpackbits(bits, bitorder="little")[:count]).tolist())
        return None if len(written) == count else written

    def stop(self) -> None:
        """End the hypervisor's tracking of the domain."""
        room = np.zeros(3 * PAGE, np.uint8)
        inside = room.ctypes.data // PAGE * PAGE + PAGE + 8
        if self._track(self._handle, self._range[0], 0, 0, inside):
            raise DriverError(f"track_dirty_vram, to stop: {os.strerror(ctypes.get_errno())}")

    def __enter__(self) -> DirtyLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(self._handle)
