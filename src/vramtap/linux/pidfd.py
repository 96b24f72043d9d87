"""pidfd: a process that cannot be mistaken for another, and its open descriptors."""

from __future__ import annotations

import os
import select

from vramtap.linux import abi
from vramtap.linux.calls import error_for, syscall
from vramtap.linux.descriptor import Descriptor


class PidFd(Descriptor):
    """A process held by descriptor: its number may be reused, the descriptor never means another.

    Kernel: pidfd_open(2), since 5.3; pidfd_getfd(2), since 5.6, needs ptrace rights.
    Cost: a microsecond a call.

    Args:
        pid: Process id.

    Raises:
        TargetGone: no such process.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        try:
            super().__init__(os.pidfd_open(pid))
        except OSError as error:
            raise error_for("pidfd_open", f"pid {pid}", error.errno or 0) from error

    def fileno(self) -> int:
        """The descriptor; it becomes readable when the process ends."""
        return self._fd

    @property
    def alive(self) -> bool:
        """Whether the process runs (a zombie does not)."""
        poller = select.poll()
        poller.register(self._fd, select.POLLIN)
        return not poller.poll(0)

    def getfd(self, fd: int) -> int:
        """Duplicate one of its descriptors into this process (close-on-exec).

        Raises:
            KernelError: EPERM without ptrace rights, EBADF if it has no such descriptor.
        """
        return syscall("pidfd_getfd", f"pid {self.pid} fd {fd}", abi.SYS_PIDFD_GETFD, self._fd, fd, 0)
