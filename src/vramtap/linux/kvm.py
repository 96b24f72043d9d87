"""KVM: one class for each of its three kinds of descriptors.

Each ioctl has a section of its name in the kernel's Documentation/virt/kvm/api.rst.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from vramtap.errors import KernelError, NotFound, Refused, Unsupported, VramtapError
from vramtap.linux import kvm_abi as abi
from vramtap.linux.descriptor import Descriptor
from vramtap.linux.kvm_exits import Interrupted, VmExit, decode
from vramtap.linux.kvm_ring import DirtyRing
from vramtap.pages import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

DEVICE: Final = "/dev/kvm"
CLEAR_GRANULE_PAGES: Final = 64
"""Granule of KVM_CLEAR_DIRTY_LOG for the first page and the page count; the end of the slot counts too."""

_REMEDY_ABSENT: Final = (
    "load kvm_intel or kvm_amd with virtualization switched on in the firmware; "
    "a container needs the device passed in"
)
_REMEDY_GROUP: Final = "add the user to group kvm (usermod -aG kvm USER) and log in again"


class _KvmDescriptor(Descriptor):
    """Base of the three classes: ioctls that raise vramtap's errors."""

    name = DEVICE
    """Name of the object in messages."""

    def _ioctl(self, name: str, request: int, argument: int | ctypes.Structure = 0, what: str = "") -> int:
        """Make a call.

        Other threads run meanwhile if the argument is an integer or a struct of up to 1,024 bytes, which
        Python copies into the call and back. Python passes a longer struct in place and keeps the GIL.
        """
        if self._fd < 0:
            raise _error(name, f"{self.name}{what}", errno.EBADF)
        try:
            return int(fcntl.ioctl(self._fd, request, argument))
        except OSError as error:
            raise _error(name, f"{self.name}{what}", error.errno or 0) from error


def _error(operation: str, obj: str, number: int) -> KernelError:
    kind = Unsupported if number in (errno.ENOSYS, errno.ENOTTY) else KernelError
    return kind(operation, obj, number, os.strerror(number))


class Kvm(_KvmDescriptor):
    """`/dev/kvm`.

    Kernel: KVM_GET_API_VERSION, KVM_CHECK_EXTENSION, KVM_CREATE_VM, KVM_GET_SUPPORTED_CPUID.
        CONFIG_KVM; read and write permission on the device, no privilege.
    """

    @classmethod
    def open(cls, path: str = DEVICE) -> Self:
        """Open the device and check that it is KVM.

        Raises:
            NotFound: There is no such device, or it has no driver.
            Refused: This user may not open it.
            KernelError: Another failure, or the device is not KVM.
            VramtapError: The device has another API version.
        """
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except PermissionError as error:
            # EPERM comes from the device list of a container, EACCES from the file's permissions.
            container = error.errno == errno.EPERM
            remedy = "allow the container the device" if container else _REMEDY_GROUP
            raise Refused("open", path, errno.errorcode[error.errno or errno.EACCES], remedy) from error
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
                raise NotFound("open", path, errno.errorcode[error.errno], _REMEDY_ABSENT) from error
            raise _error("open", path, error.errno or 0) from error
        kvm = cls(fd)
        kvm.name = path
        try:
            version = kvm.api_version()
            if version != abi.KVM_API_VERSION:
                what = f"version {version}, not {abi.KVM_API_VERSION}"
                raise VramtapError("KVM_GET_API_VERSION", path, what)
        except BaseException:
            kvm.close()
            raise
        return kvm

    def api_version(self) -> int:
        """KVM_GET_API_VERSION: always 12."""
        return self._ioctl("KVM_GET_API_VERSION", abi.KVM_GET_API_VERSION)

    def check_extension(self, capability: int) -> int:
        """KVM_CHECK_EXTENSION: 0 if KVM lacks the capability; other values depend on the capability."""
        return self._ioctl("KVM_CHECK_EXTENSION", abi.KVM_CHECK_EXTENSION, capability)

    def supported_cpuid(self) -> abi.KvmCpuid2:
        """KVM_GET_SUPPORTED_CPUID: the entries that `Vcpu.set_cpuid` accepts."""
        cpuid = abi.KvmCpuid2(nent=abi.CPUID_ENTRIES)
        self._ioctl("KVM_GET_SUPPORTED_CPUID", abi.KVM_GET_SUPPORTED_CPUID, cpuid)
        return cpuid

    def create_vm(self) -> Vm:
        """KVM_CREATE_VM: create a VM without memory and vCPUs."""
        size_bytes = self._ioctl("KVM_GET_VCPU_MMAP_SIZE", abi.KVM_GET_VCPU_MMAP_SIZE)
        return Vm(self._ioctl("KVM_CREATE_VM", abi.KVM_CREATE_VM), size_bytes)


class Vm(_KvmDescriptor):
    """One virtual machine.

    Args:
        fd: Result of KVM_CREATE_VM; owned from here on.
        run_bytes: Result of KVM_GET_VCPU_MMAP_SIZE.
    """

    name = "vm"

    def __init__(self, fd: int, run_bytes: int) -> None:
        super().__init__(fd)
        self._run_bytes = run_bytes
        self._ring_bytes = 0
        self._pages: dict[int, int] = {}

    def set_memory(
        self, slot: int, guest_address: int, host_address: int, size_bytes: int, flags: int = 0
    ) -> None:
        """KVM_SET_USER_MEMORY_REGION: map memory of this process into the guest.

        The memory must stay mapped until the slot or the VM is gone. The flags of an existing slot can change
        while vCPUs run. A `size_bytes` of 0 deletes the slot.

        Args:
            slot: Number of the slot.
            guest_address: Guest-physical address, a page boundary.
            host_address: Address in this process, a page boundary.
            size_bytes: A multiple of `PAGE_SIZE`.
            flags: `KVM_MEM_LOG_DIRTY_PAGES` or 0.

        Raises:
            KernelError: EEXIST: the range overlaps another slot; EINVAL: an argument is invalid.
        """
        region = abi.KvmUserspaceMemoryRegion(
            slot=slot,
            flags=flags,
            guest_phys_addr=guest_address,
            memory_size=size_bytes,
            userspace_addr=host_address,
        )
        what = f" slot {slot} {guest_address:#x}+{size_bytes:#x}"
        self._ioctl("KVM_SET_USER_MEMORY_REGION", abi.KVM_SET_USER_MEMORY_REGION, region, what)
        self._pages[slot] = size_bytes // PAGE_SIZE

    def dirty_log(self, slot: int) -> NDArray[np.uint8]:
        """KVM_GET_DIRTY_LOG: return the pages of a logged slot written since the log was cleared.

        It clears the log too, except after `enable_manual_protect`: then only `clear_dirty_log` does.

        Returns:
            A bitmap, lowest bit of the first byte first, padded with zeros to 64 pages.

        Raises:
            ValueError: `set_memory` did not make this slot.
            KernelError: ENOENT: the slot is not logged; ENXIO: the VM has dirty rings instead.
        """
        # The kernel writes one bit per page of the slot, so the buffer must have exactly that size.
        bitmap = np.zeros(-(-self._size_of(slot) // CLEAR_GRANULE_PAGES) * 8, dtype=np.uint8)
        log = abi.KvmDirtyLog(slot=slot, dirty_bitmap=bitmap.ctypes.data)
        self._ioctl("KVM_GET_DIRTY_LOG", abi.KVM_GET_DIRTY_LOG, log, f" slot {slot}")
        return bitmap

    def clear_dirty_log(self, slot: int, first_page: int, bitmap: NDArray[np.uint8]) -> None:
        """KVM_CLEAR_DIRTY_LOG: clear the pages whose bits are set, and protect them again.

        Since 5.0, after `enable_manual_protect`. Pages whose bits are zero keep their state.

        Args:
            slot: A logged slot that `set_memory` made.
            first_page: Page of the bitmap's first bit; a multiple of `CLEAR_GRANULE_PAGES`.
            bitmap: Shape `(bytes,)`, uint8; a multiple of 8 bytes.

        Raises:
            ValueError: The range lies outside the slot, or does not consist of whole granules.
            KernelError: The slot is not logged, or `enable_manual_protect` was not called.
        """
        pages = min(8 * len(bitmap), self._size_of(slot) - first_page)
        if first_page % CLEAR_GRANULE_PAGES or first_page < 0 or len(bitmap) % 8 or pages <= 0:
            raise ValueError(f"{len(bitmap)} bytes from page {first_page} are not whole granules of the slot")
        bitmap = np.ascontiguousarray(bitmap)
        log = abi.KvmClearDirtyLog(
            slot=slot, num_pages=pages, first_page=first_page, dirty_bitmap=bitmap.ctypes.data
        )
        what = f" slot {slot} pages {first_page}+{pages}"
        self._ioctl("KVM_CLEAR_DIRTY_LOG", abi.KVM_CLEAR_DIRTY_LOG, log, what)

    def _size_of(self, slot: int) -> int:
        pages = self._pages.get(slot, 0)
        if not pages:
            raise ValueError(f"slot {slot} has no memory")
        return pages

    def enable_manual_protect(self) -> None:
        """KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: reading the dirty log no longer clears it.

        It does not set KVM_DIRTY_LOG_INITIALLY_SET: a log that begins full reports pages that were not
        written.

        Raises:
            KernelError: EINVAL: the kernel lacks the capability.
        """
        self._enable(abi.KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, abi.KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE)

    def enable_dirty_rings(self, entries: int) -> None:
        """KVM_CAP_DIRTY_LOG_RING: give each vCPU a dirty ring instead of each slot a bitmap.

        Call it before creating the first vCPU.

        Args:
            entries: Entries per ring; a power of two.

        Raises:
            KernelError: EINVAL: the kernel lacks the capability, or rings of this size; E2BIG: too large.
        """
        size_bytes = entries * ctypes.sizeof(abi.KvmDirtyGfn)
        self._enable(abi.KVM_CAP_DIRTY_LOG_RING, size_bytes)
        self._ring_bytes = size_bytes

    def _enable(self, capability: int, argument: int) -> None:
        cap = abi.KvmEnableCap(cap=capability)
        cap.args[0] = argument
        self._ioctl("KVM_ENABLE_CAP", abi.KVM_ENABLE_CAP, cap, f" capability {capability} {argument:#x}")

    def reset_dirty_rings(self) -> None:
        """KVM_RESET_DIRTY_RINGS: free the reaped entries and protect their pages again."""
        while True:
            try:
                self._ioctl("KVM_RESET_DIRTY_RINGS", abi.KVM_RESET_DIRTY_RINGS)
                return
            except KernelError as error:
                # Newer kernels stop half-way at a signal; the flags in the ring mark the remaining entries.
                if error.errno != errno.EINTR:
                    raise

    def set_tss_address(self, guest_address: int) -> None:
        """KVM_SET_TSS_ADDR: reserve three pages for Intel processors; no slot may contain them.

        Args:
            guest_address: Guest-physical address, below 2 GiB: Python passes a signed 32-bit integer.
        """
        self._ioctl("KVM_SET_TSS_ADDR", abi.KVM_SET_TSS_ADDR, guest_address)

    def create_vcpu(self, number: int = 0) -> Vcpu:
        """KVM_CREATE_VCPU.

        Raises:
            KernelError: EEXIST: the VM has a vCPU of this number.
        """
        fd = self._ioctl("KVM_CREATE_VCPU", abi.KVM_CREATE_VCPU, number)
        return Vcpu(fd, self._run_bytes, self._ring_bytes)


class Vcpu(_KvmDescriptor):
    """One virtual CPU. Its calls wait until a `run` on another thread returns.

    Args:
        fd: Result of KVM_CREATE_VCPU; owned from here on.
        run_bytes: Bytes of the mapping that it shares with the kernel.
        ring_bytes: Bytes of its dirty ring; 0 without one.

    Raises:
        KernelError: The vCPU cannot be mapped.
    """

    name = "vcpu"

    def __init__(self, fd: int, run_bytes: int, ring_bytes: int = 0) -> None:
        super().__init__(fd)
        self.ring: DirtyRing | None = None
        """Dirty ring of the vCPU; None if the VM has no rings."""
        try:
            mapping = mmap.mmap(fd, run_bytes)
            # Not closed here: Python unmaps it when the last view is gone.
            self._view = memoryview(mapping)
            self._run = abi.KvmRun.from_buffer(mapping)
            if ring_bytes:
                offset = abi.KVM_DIRTY_LOG_PAGE_OFFSET * PAGE_SIZE
                self.ring = DirtyRing(mmap.mmap(fd, ring_bytes, offset=offset))
        except OSError as error:
            self.close()
            raise _error("mmap", "vcpu", error.errno or 0) from error

    def run(self) -> VmExit:
        """KVM_RUN: run the guest until an exit needs handling. Other threads run meanwhile.

        Raises:
            KernelError: KVM refused to run the vCPU.
        """
        if self._fd < 0:
            raise _error("KVM_RUN", self.name, errno.EBADF)
        try:
            fcntl.ioctl(self._fd, abi.KVM_RUN, 0)
        except InterruptedError:
            return Interrupted()
        except OSError as error:
            raise _error("KVM_RUN", self.name, error.errno or 0) from error
        return decode(self._run, self._view)

    @property
    def immediate_exit(self) -> bool:
        """While it is set, `run` only completes the last exit and returns `Interrupted`."""
        return bool(self._run.immediate_exit)

    @immediate_exit.setter
    def immediate_exit(self, value: bool) -> None:
        self._run.immediate_exit = value

    def set_signal_mask(self, blocked: Iterable[int]) -> None:
        """KVM_SET_SIGNAL_MASK: block these signals during `run`, instead of the thread's mask."""
        bits = 0
        for number in blocked:
            bits |= 1 << number - 1
        mask = abi.KvmSignalMask(len=8)
        mask.sigset[:] = bits.to_bytes(8, "little")
        self._ioctl("KVM_SET_SIGNAL_MASK", abi.KVM_SET_SIGNAL_MASK, mask)

    def regs(self) -> abi.KvmRegs:
        """KVM_GET_REGS."""
        regs = abi.KvmRegs()
        self._ioctl("KVM_GET_REGS", abi.KVM_GET_REGS, regs)
        return regs

    def set_regs(self, regs: abi.KvmRegs) -> None:
        """KVM_SET_REGS."""
        self._ioctl("KVM_SET_REGS", abi.KVM_SET_REGS, regs)

    def sregs(self) -> abi.KvmSregs:
        """KVM_GET_SREGS."""
        sregs = abi.KvmSregs()
        self._ioctl("KVM_GET_SREGS", abi.KVM_GET_SREGS, sregs)
        return sregs

    def set_sregs(self, sregs: abi.KvmSregs) -> None:
        """KVM_SET_SREGS.

        Raises:
            KernelError: EINVAL: the state is impossible.
        """
        self._ioctl("KVM_SET_SREGS", abi.KVM_SET_SREGS, sregs)

    def set_cpuid(self, cpuid: abi.KvmCpuid2) -> None:
        """KVM_SET_CPUID2: set the features of the guest's processor, before its first run."""
        self._ioctl("KVM_SET_CPUID2", abi.KVM_SET_CPUID2, cpuid)
