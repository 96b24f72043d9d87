"""SchedstatProbe: whether a process's main thread has run since it was last looked at."""

from __future__ import annotations

import os
from typing import Final

from vramtap.linux.calls import error_for
from vramtap.linux.descriptor import Descriptor

_LINE_BYTES: Final = 128


class SchedstatProbe(Descriptor):
    """The processor time of a process's main thread, by which one can tell that it did nothing.

    Kernel: /proc/PID/schedstat (Documentation/scheduler/sched-stats.rst), CONFIG_SCHED_INFO; the descriptor
    stays with this very thread, and fails once it has ended. World-readable.
    Cost: 1-2 us.

    Args:
        pid: Of the process.

    Raises:
        KernelError: there is none, or this kernel does not count.
    """

    def __init__(self, pid: int) -> None:
        path = f"/proc/{pid}/schedstat"
        try:
            super().__init__(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            raise error_for("open", path, error.errno or 0) from error

    def read(self) -> bytes | None:
        """Something that is another after the thread has run; None if it has ended.

        The kernel accounts for a thread that runs at this moment at its next tick or switch, so whoever is
        told "the same" while it runs is told otherwise soon after.
        """
        try:
            return os.pread(self.fileno(), _LINE_BYTES, 0) or None
        except OSError:
            # ESRCH: what has ended does nothing any more.
            return None
