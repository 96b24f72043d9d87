"""libxenctrl: the state of a domain and of its virtual processors.

The file name contains Xen's version, and the interface may change with it. So vramtap uses little of it, no
feature depends on it alone, and the offsets read here are unchanged since Xen 4.2
(xen/include/public/domctl.h, xen_domctl_getdomaininfo; xen/include/public/arch-x86/hvm/save.h, hvm_hw_cpu,
which is an ABI).
"""

from __future__ import annotations

import ctypes
import errno
import struct
from dataclasses import dataclass
from enum import IntEnum
from glob import glob
from typing import Final

from vramtap.errors import TargetGone, VramtapError
from vramtap.xen.library import Handle, Library, quiet_logger, raise_errno

PACKAGE: Final = "libxenmisc4.17"
_PLACES: Final = (
    "/usr/lib/*/libxenctrl.so.4.*",
    "/usr/lib*/libxenctrl.so.4.*",
    "/usr/local/lib*/libxenctrl.so.4.*",
)
_INFO_BYTES: Final = 4096
"""Buffer for one xen_domctl_getdomaininfo; it has 120 to 200 bytes in the known versions."""
_FLAGS: Final = struct.Struct("<HxxI")
_CPU_TIME: Final = struct.Struct("<56xQ")
"""Follows the flags and six 64-bit page counts."""
_LAST_VCPU: Final = struct.Struct("<68xI")
_FLAG_DYING: Final = 1 << 0
_FLAG_HVM: Final = 1 << 1
_FLAG_SHUTDOWN: Final = 1 << 2
_FLAG_PAUSED: Final = 1 << 3
_FLAG_HAP: Final = 1 << 8
_REASON_SHIFT: Final = 16
_CPU_TYPECODE: Final = 2
"""HVM_SAVE_CODE(CPU)."""
_CPU_BYTES: Final = 4096
"""Buffer for the record of a processor; it has about 1,024 bytes."""
_CR0: Final = struct.Struct("<656xQ")
"""Follows 512 bytes of FPU state, 16 registers, RIP and RFLAGS."""
_CR0_WP: Final = 1 << 16
MAX_VCPUS: Final = 512


class ShutdownReason(IntEnum):
    """Why a domain has shut down (xen/include/public/sched.h, SHUTDOWN_*)."""

    POWEROFF = 0
    REBOOT = 1
    SUSPEND = 2
    CRASH = 3
    WATCHDOG = 4
    SOFT_RESET = 5


@dataclass(frozen=True, slots=True)
class DomainInfo:
    """The state of a domain.

    Args:
        domid: Domain id.
        hvm: The domain is fully virtualised.
        hap: The processor translates its memory (nested paging); False with shadow page tables.
        paused: The toolstack has paused it.
        dying: The toolstack is destroying it.
        shutdown: The `ShutdownReason`; None while the domain has not shut down.
    """

    domid: int
    hvm: bool
    hap: bool
    paused: bool
    dying: bool
    shutdown: int | None


class Control(Handle):
    """A handle of libxenctrl.

    Privilege: root in dom0.

    Raises:
        NotFound: libxenctrl is not installed.
        Refused: This is not dom0, or vramtap has no permission.
    """

    def __init__(self) -> None:
        found = sorted((name for place in _PLACES for name in glob(place)), key=len)
        library = Library((*found, "libxenctrl.so"), PACKAGE).load()
        super().__init__(library, "xc_interface", quiet_logger(), quiet_logger(), ctypes.c_uint(0))
        library.xc_domain_getinfolist.restype = ctypes.c_int
        library.xc_domain_getinfolist.argtypes = [
            ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint, ctypes.c_void_p,
        ]  # fmt: skip
        self._context = library.xc_domain_hvm_getcontext_partial
        self._context.restype = ctypes.c_int
        self._context.argtypes = [
            ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint16, ctypes.c_uint16, ctypes.c_void_p,
            ctypes.c_uint32,
        ]  # fmt: skip

    def domain(self, domid: int) -> DomainInfo | None:
        """Return the state of a domain; None if there is no such domain.

        Raises:
            VramtapError: The hypervisor refused.
        """
        room = self._info(domid)
        if room is None:
            return None
        _, flags = _FLAGS.unpack_from(room)
        shutdown = flags >> _REASON_SHIFT & 0xFF if flags & _FLAG_SHUTDOWN else None
        return DomainInfo(
            domid=domid,
            hvm=bool(flags & _FLAG_HVM),
            hap=bool(flags & _FLAG_HAP),
            paused=bool(flags & _FLAG_PAUSED),
            dying=bool(flags & _FLAG_DYING),
            shutdown=shutdown,
        )

    def cpu_time_ns(self, domid: int) -> int:
        """Return the total run time of the domain's virtual processors until now, ns.

        Cost: a few microseconds; the domain is not paused.

        Raises:
            TargetGone: The domain has ended.
            VramtapError: The hypervisor refused.
        """
        room = self._info(domid)
        if room is None:
            raise TargetGone("xc_domain_getinfolist", f"domain {domid}", "the domain has ended")
        return int(_CPU_TIME.unpack_from(room)[0])

    def _info(self, domid: int) -> ctypes.Array[ctypes.c_char] | None:
        """Return the xen_domctl_getdomaininfo of a domain; None if there is no such domain."""
        room = ctypes.create_string_buffer(_INFO_BYTES)
        ctypes.set_errno(0)
        count = self._library.xc_domain_getinfolist(self.handle, domid, 1, room)
        if count < 0:
            raise_errno("xc_domain_getinfolist", f"domain {domid}", ctypes.get_errno())
        # The hypervisor returns the first domain with at least this id.
        return room if count and _FLAGS.unpack_from(room)[0] == domid else None

    def heeds_write_protection(self, domid: int) -> bool:
        """Return whether CR0.WP is set on every virtual processor: the kernel then heeds read-only mappings.

        Cost: the hypervisor pauses the domain once for each processor.

        Raises:
            TargetGone: The domain has ended.
            VramtapError: The hypervisor refused.
        """
        info = self._info(domid)
        if info is None:
            raise TargetGone("xc_domain_getinfolist", f"domain {domid}", "the domain has ended")
        last = int(_LAST_VCPU.unpack_from(info)[0])
        if last >= MAX_VCPUS:
            raise VramtapError(
                "xc_domain_getinfolist", f"domain {domid}", f"over {MAX_VCPUS} vCPUs: {last + 1}"
            )
        for vcpu in range(last + 1):
            room = ctypes.create_string_buffer(_CPU_BYTES)
            ctypes.set_errno(0)
            if self._context(self.handle, domid, _CPU_TYPECODE, vcpu, room, _CPU_BYTES):
                number = ctypes.get_errno()
                # A processor that is not running has no record, and writes nothing.
                if number == errno.ENOENT:
                    continue
                raise_errno("xc_domain_hvm_getcontext_partial", f"domain {domid} vCPU {vcpu}", number)
            if not _CR0.unpack_from(room)[0] & _CR0_WP:
                return False
        return True
