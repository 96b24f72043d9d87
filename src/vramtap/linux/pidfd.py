"""pidfd: an unambiguous handle of a process, and access to its descriptors."""

from __future__ import annotations

import os
import select

from vramtap.linux import abi
from vramtap.linux.calls import error_for, syscall
from vramtap.linux.descriptor import Descriptor


class PidFd(Descriptor):
    """A process held by descriptor. The kernel may reuse a pid; a descriptor never means another process.

    Kernel: pidfd_open(2), since 5.3; pidfd_getfd(2), since 5.6, needs ptrace rights.
    Cost: 1 us per call.

    Args:
        pid: Process id.

    Raises:
        TargetGone: There is no such process.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        try:
            super().__init__(os.pidfd_open(pid))
        except OSError as error:
            raise error_for("pidfd_open", f"pid {pid}", error.errno or 0) from error

    def fileno(self) -> int:
        """Return the descriptor; it becomes readable when the process ends."""
        return self._fd

    @property
    def alive(self) -> bool:
        """Whether the process runs; False for a zombie."""
        poller = select.poll()
        poller.register(self._fd, select.POLLIN)
        return not poller.poll(0)

    def getfd(self, fd: int) -> int:
        """Duplicate a descriptor of the process into this one, close-on-exec.

        Raises:
            KernelError: EPERM: no ptrace rights; EBADF: the process has no such descriptor.
        """
        return syscall("pidfd_getfd", f"pid {self.pid} fd {fd}", abi.SYS_PIDFD_GETFD, self._fd, fd, 0)
