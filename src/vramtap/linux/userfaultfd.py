"""userfaultfd: write protection of a range of a process's memory."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING, Final, Self

from vramtap.linux import abi
from vramtap.linux.calls import error_for, syscall
from vramtap.linux.descriptor import Descriptor

if TYPE_CHECKING:
    import ctypes

OPEN_FLAGS: Final = os.O_CLOEXEC | os.O_NONBLOCK | abi.UFFD_USER_MODE_ONLY
"""Flags for the userfaultfd of the write log.

UFFD_USER_MODE_ONLY needs no privilege. It loses nothing: the kernel resolves asynchronous write protection
itself, also for its own writes. Never combine the flag with synchronous protection: the kernel's own writes
(a read(2) into the buffer) would then fail in the target.
"""

FULL_OPEN_FLAGS: Final = os.O_CLOEXEC | os.O_NONBLOCK
"""Flags for a full userfaultfd, for synchronous protection: the kernel's own writes wait too.

The process that opens it needs CAP_SYS_PTRACE, or `vm.unprivileged_userfaultfd=1`.
"""

LOG_FEATURES: Final = (
    abi.UFFD_FEATURE_WP_ASYNC | abi.UFFD_FEATURE_WP_UNPOPULATED | abi.UFFD_FEATURE_WP_HUGETLBFS_SHMEM
)

GUARD_FEATURES: Final = (
    abi.UFFD_FEATURE_PAGEFAULT_FLAG_WP
    | abi.UFFD_FEATURE_WP_UNPOPULATED
    | abi.UFFD_FEATURE_WP_HUGETLBFS_SHMEM
    | abi.UFFD_FEATURE_EVENT_REMAP
    | abi.UFFD_FEATURE_EVENT_REMOVE
    | abi.UFFD_FEATURE_EVENT_UNMAP
)
"""Features for synchronous protection. The events report changes of memory without a write: moved, given
back, unmapped. A thread that makes such a change waits until the event was read."""


class Userfaultfd(Descriptor):
    """A userfaultfd. It acts on the memory of the process that opened it.

    Kernel: userfaultfd(2), ioctl_userfaultfd(2); WP_ASYNC since 6.7, CONFIG_USERFAULTFD and
        CONFIG_PTE_MARKER_UFFD_WP. Opened with UFFD_USER_MODE_ONLY: no privilege.
    Cost: register and protect of 2,025 pages 230 us; a first write to a protected page 0.75 us in the writer.

    Closing the last reference unregisters every range and lifts every protection, also when its process is
    killed. That leaves the target as it was found.

    Args:
        fd: An open userfaultfd; owned from here on.
        owner: The process whose memory it acts on, for messages.
    """

    def __init__(self, fd: int, owner: str) -> None:
        super().__init__(fd)
        self.owner = owner

    @classmethod
    def of_self(cls) -> Self:
        """Open a userfaultfd for this process.

        Raises:
            Unsupported: The kernel has no userfaultfd.
        """
        return cls(syscall("userfaultfd", "self", abi.SYS_USERFAULTFD, OPEN_FLAGS), "this process")

    def api(self, features: int) -> None:
        """Request features; once, before any other call.

        Raises:
            KernelError: EINVAL: the kernel lacks one of the features.
        """
        self._ioctl("UFFDIO_API", abi.UFFDIO_API, abi.UffdioApi(api=abi.UFFD_API, features=features), "")

    def register(self, start: int, end: int) -> None:
        """Register the mappings of `[start, end)` for write protection.

        Raises:
            KernelError: EBUSY: another userfaultfd holds them; EINVAL: not mapped, or a kind of memory
                that cannot be protected.
        """
        argument = abi.UffdioRegister(
            range=abi.UffdioRange(start=start, len=end - start), mode=abi.UFFDIO_REGISTER_MODE_WP
        )
        self._ioctl("UFFDIO_REGISTER", abi.UFFDIO_REGISTER, argument, f" {start:#x}-{end:#x}")

    def unregister(self, start: int, end: int) -> None:
        """Lift protection and registration of `[start, end)`, without waking held writers.

        Kernel: userfaultfd_unregister() (fs/userfaultfd.c, 6.18) wakes only threads that wait for a missing
            page.
        """
        argument = abi.UffdioRange(start=start, len=end - start)
        self._ioctl("UFFDIO_UNREGISTER", abi.UFFDIO_UNREGISTER, argument, f" {start:#x}-{end:#x}")

    def protect(self, start: int, end: int) -> None:
        """Write-protect every page of `[start, end)`, present or not.

        Raises:
            KernelError: ENOENT: some of it is not registered.
        """
        self._writeprotect(start, end, abi.UFFDIO_WRITEPROTECT_MODE_WP)

    def lift(self, start: int, end: int) -> None:
        """Make `[start, end)` writable again and wake the writers held there.

        Raises:
            KernelError: ENOENT: some of it is not registered with any userfaultfd.
        """
        self._writeprotect(start, end, 0)

    def wake(self, start: int, end: int) -> None:
        """Wake the threads held in `[start, end)`; each retries its access.

        Raises:
            KernelError: ESRCH: the process has no memory any more.
        """
        argument = abi.UffdioRange(start=start, len=end - start)
        self._ioctl("UFFDIO_WAKE", abi.UFFDIO_WAKE, argument, f" {start:#x}-{end:#x}")

    def _writeprotect(self, start: int, end: int, mode: int) -> None:
        argument = abi.UffdioWriteprotect(range=abi.UffdioRange(start=start, len=end - start), mode=mode)
        self._ioctl("UFFDIO_WRITEPROTECT", abi.UFFDIO_WRITEPROTECT, argument, f" {start:#x}-{end:#x}")

    def _ioctl(self, name: str, request: int, argument: ctypes.Structure, what: str) -> None:
        try:
            fcntl.ioctl(self._fd, request, argument)
        except OSError as error:
            raise error_for(name, f"{self.owner}{what}", error.errno or 0) from error
