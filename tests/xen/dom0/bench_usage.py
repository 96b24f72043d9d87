"""What a process has used: processor time and wake-ups, as the kernel counts them."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TICK_MS: Final = 1000 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """Totals of a process, or what came in between two.

    Args:
        at_s: Monotonic seconds; of a difference, how long it was.
        cpu_ms: Processor time, user and system, of all threads, in the kernel's ticks of 10 ms.
        switches: Voluntary context switches of the threads that there are now.
    """

    at_s: float
    cpu_ms: float
    switches: int

    @classmethod
    def of(cls, pid: int) -> Usage:
        """Until now."""
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        switches = 0
        for task in Path(f"/proc/{pid}/task").iterdir():
            try:
                status = (task / "status").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue  # a thread that has ended since
            line = next(line for line in status.splitlines() if line.startswith("voluntary_ctxt_switches"))
            switches += int(line.split()[1])
        return cls(time.monotonic(), (int(fields[11]) + int(fields[12])) * _TICK_MS, switches)

    def since(self, before: Usage) -> Usage:
        """What came since."""
        return Usage(self.at_s - before.at_s, self.cpu_ms - before.cpu_ms, self.switches - before.switches)

    def plus(self, other: Usage) -> Usage:
        """Both together."""
        return Usage(self.at_s + other.at_s, self.cpu_ms + other.cpu_ms, self.switches + other.switches)


NOTHING: Final = Usage(0.0, 0.0, 0)
