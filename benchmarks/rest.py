"""What a server spends: context switches and CPU time of its process and of its helpers."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from support.testbed.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

QUIET_S: Final = 5.0
"""A server that does not wake up for so long is at rest: longer than any timer of ours or of its peers that
ticks while nothing happens (a second for the geometry, three for QEMU's refresh)."""
REST_LIMIT_S: Final = 140.0
"""How long coming to rest is waited for. An armed vramtap asks QEMU for the geometry ever more rarely, last
two minutes after it has been armed and then every five; x11vnc's longest nap begins after two minutes."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What processes have spent since they began.

    Args:
        voluntary: Context switches because they waited: each is a wake-up.
        involuntary: Context switches because somebody else was let run.
        cpu_ns: CPU time of all their threads, those that have ended included.
        threads: The threads that were counted. What one that ends has switched is not in the kernel's
            account of the others.
    """

    voluntary: int
    involuntary: int
    cpu_ns: int
    threads: frozenset[int]

    def since(self, before: Spent) -> Spent:
        """What was spent in between; `threads` are those that came or went."""
        return Spent(
            self.voluntary - before.voluntary,
            self.involuntary - before.involuntary,
            self.cpu_ns - before.cpu_ns,
            self.threads ^ before.threads,
        )


def family(pid: int) -> list[int]:
    """A process and all that descend from it: helpers in sessions of their own, too."""
    parents = _parents()
    found, last = [pid], -1
    while len(found) != last:
        last = len(found)
        found += [child for child, parent in parents.items() if parent in found and child not in found]
    return found


def _parents() -> Mapping[int, int]:
    """The parent of every process there is."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path(f"/proc/{entry}/stat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended between the listing and the reading
            # The name, in parentheses, may hold spaces and parentheses itself (proc_pid_stat(5)).
            parents[int(entry)] = int(stat.rpartition(")")[2].split()[1])
    return parents


def name_of(pid: int) -> str:
    """What a process is called."""
    return Path(f"/proc/{pid}/comm").read_text().strip()


def spent(pids: list[int]) -> Spent:
    """What these processes have spent so far. Asking wakes none of them.

    Raises:
        LabError: one of them has ended: what costs nothing for that reason is no figure.
    """
    voluntary = involuntary = cpu_ns = 0
    threads: set[int] = set()
    for pid in pids:
        try:
            tasks = {int(name): _status(pid, name) for name in os.listdir(f"/proc/{pid}/task")}
        except (FileNotFoundError, ProcessLookupError) as error:
            raise LabError(f"pid {pid} has ended") from error
        if tasks[pid]["State"].startswith(("Z", "X")):
            raise LabError(f"pid {pid} has ended")
        for status in tasks.values():
            voluntary += int(status["voluntary_ctxt_switches"])
            involuntary += int(status["nonvoluntary_ctxt_switches"])
        threads |= set(tasks)
        # The CPU clock of another process: its complemented pid, and 2 for scheduler time (kernel:
        # include/linux/posix-timers.h). Unlike the threads' own figures it keeps those that have ended.
        cpu_ns += time.clock_gettime_ns(~pid << 3 | 2)
    return Spent(voluntary, involuntary, cpu_ns, frozenset(threads))


def _status(pid: int, task: str) -> dict[str, str]:
    """What the kernel says of a thread (proc_pid_status(5))."""
    lines = Path(f"/proc/{pid}/task/{task}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def wakeups(pid: int) -> int:
    """How often a process and its helpers have woken up so far."""
    return spent(family(pid)).voluntary


def wait_for_rest(
    pids: Mapping[str, int],
    pause: Callable[[float], None],
    *,
    quiet_s: float = QUIET_S,
    limit_s: float = REST_LIMIT_S,
    clock: Callable[[], float] = time.monotonic,
    count: Callable[[int], int] = wakeups,
) -> dict[str, float | None]:
    """Wait until none of these servers wakes up any more.

    Args:
        pids: Servers by name.
        pause: Waits for so many seconds, serving whoever has to be served meanwhile.
        quiet_s: Without a wake-up is rest.
        limit_s: When waiting is given up.
        clock: Seconds.
        count: How often a process and its helpers have woken up so far.

    Returns:
        After how many seconds each woke up last; None for those that have not come to rest.
    """
    began_s = clock()
    last = {name: (count(pid), 0.0) for name, pid in pids.items()}
    while True:
        pause(min(1.0, quiet_s))
        now_s = clock() - began_s
        for name, pid in pids.items():
            if (number := count(pid)) != last[name][0]:
                last[name] = number, now_s
        resting = {name: now_s - at_s >= quiet_s for name, (_, at_s) in last.items()}
        if all(resting.values()) or now_s >= limit_s:
            return {name: at_s if resting[name] else None for name, (_, at_s) in last.items()}
