"""SchedstatProbe: tells whether a process's main thread has run since the last poll."""

from __future__ import annotations

import os
from typing import Final

from vramtap.linux.calls import error_for
from vramtap.linux.descriptor import Descriptor

_LINE_BYTES: Final = 128


class SchedstatProbe(Descriptor):
    """The processor time of a process's main thread. While it does not change, the thread has not run.

    Kernel: /proc/PID/schedstat (Documentation/scheduler/sched-stats.rst), CONFIG_SCHED_INFO. World-readable.
        The descriptor belongs to this thread; reads fail once the thread has ended.
    Cost: 1-2 us.

    Args:
        pid: Process id.

    Raises:
        KernelError: There is no such process, or the kernel lacks CONFIG_SCHED_INFO.
    """

    def __init__(self, pid: int) -> None:
        path = f"/proc/{pid}/schedstat"
        try:
            super().__init__(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            raise error_for("open", path, error.errno or 0) from error

    def read(self) -> bytes | None:
        """Return a value that differs after the thread has run; None if the thread has ended.

        The kernel updates the value of a running thread at the next tick or context switch. Until then the
        value stays the same although the thread runs.
        """
        try:
            return os.pread(self.fileno(), _LINE_BYTES, 0) or None
        except OSError:
            # ESRCH: the thread has ended.
            return None
