"""Processor time and wake-ups of a process, from the kernel's counters."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TICK_MS: Final = 1000 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """Totals of a process, or the difference of two totals.

    Args:
        at_s: Monotonic seconds; in a difference, its duration.
        cpu_ms: Processor time, user and system, of all threads, in the kernel's ticks of 10 ms.
        switches: Voluntary context switches of the threads that exist now.
    """

    at_s: float
    cpu_ms: float
    switches: int

    @classmethod
    def of(cls, pid: int) -> Usage:
        """Return the totals of a process so far."""
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        switches = 0
        for task in Path(f"/proc/{pid}/task").iterdir():
            try:
                status = (task / "status").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue  # the thread has ended meanwhile
            line = next(line for line in status.splitlines() if line.startswith("voluntary_ctxt_switches"))
            switches += int(line.split()[1])
        return cls(time.monotonic(), (int(fields[11]) + int(fields[12])) * _TICK_MS, switches)

    def since(self, before: Usage) -> Usage:
        """Return the difference to an earlier total."""
        return Usage(self.at_s - before.at_s, self.cpu_ms - before.cpu_ms, self.switches - before.switches)

    def plus(self, other: Usage) -> Usage:
        """Return the sum of both."""
        return Usage(self.at_s + other.at_s, self.cpu_ms + other.cpu_ms, self.switches + other.switches)


NOTHING: Final = Usage(0.0, 0.0, 0)
