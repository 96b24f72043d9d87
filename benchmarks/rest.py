"""Context switches and CPU time of a server's process and its helpers."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from support.testbed.errors import TestbedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

QUIET_S: Final = 5.0
"""A server is at rest when it does not wake up for this long, seconds: longer than any timer that runs while
nothing changes (vramtap re-reads the mode every second, QEMU refreshes every three)."""
REST_LIMIT_S: Final = 140.0
"""Longest wait for servers to come to rest, seconds. An armed vramtap re-reads QEMU's mode at growing
intervals: two minutes after arming, and then every five. x11vnc's longest nap begins after two minutes."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What processes have spent since they started.

    Args:
        voluntary: Context switches because a thread waited. Each one is a wake-up.
        involuntary: Context switches because the kernel ran another thread.
        cpu_ns: CPU time of all their threads, including ended ones, nanoseconds.
        threads: Threads that were counted. The kernel drops the switch counts of a thread when it ends.
    """

    voluntary: int
    involuntary: int
    cpu_ns: int
    threads: frozenset[int]

    def since(self, before: Spent) -> Spent:
        """Return what was spent since `before`; `threads` are those that began or ended."""
        return Spent(
            self.voluntary - before.voluntary,
            self.involuntary - before.involuntary,
            self.cpu_ns - before.cpu_ns,
            self.threads ^ before.threads,
        )


def family(pid: int) -> list[int]:
    """Return the pids of a process and all its descendants, including helpers in their own sessions."""
    parents = _parents()
    found, last = [pid], -1
    while len(found) != last:
        last = len(found)
        found += [child for child, parent in parents.items() if parent in found and child not in found]
    return found


def _parents() -> Mapping[int, int]:
    """Return the parent of every process, by pid."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path(f"/proc/{entry}/stat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue  # the process ended after the listing
            # The name, in parentheses, may hold spaces and parentheses itself (proc_pid_stat(5)).
            parents[int(entry)] = int(stat.rpartition(")")[2].split()[1])
    return parents


def name_of(pid: int) -> str:
    """Return the name of a process."""
    return Path(f"/proc/{pid}/comm").read_text().strip()


def spent(pids: list[int]) -> Spent:
    """Return what these processes have spent so far, without waking them.

    Raises:
        TestbedError: One of them has ended, so that its figures would be too low.
    """
    voluntary = involuntary = cpu_ns = 0
    threads: set[int] = set()
    for pid in pids:
        try:
            tasks = {int(name): _status(pid, name) for name in os.listdir(f"/proc/{pid}/task")}
        except (FileNotFoundError, ProcessLookupError) as error:
            raise TestbedError(f"pid {pid} has ended") from error
        if tasks[pid]["State"].startswith(("Z", "X")):
            raise TestbedError(f"pid {pid} has ended")
        for status in tasks.values():
            voluntary += int(status["voluntary_ctxt_switches"])
            involuntary += int(status["nonvoluntary_ctxt_switches"])
        threads |= set(tasks)
        # The id of another process's CPU clock is its complemented pid and 2 for scheduler time (kernel:
        # include/linux/posix-timers.h). Unlike the threads' own figures, this clock includes ended threads.
        cpu_ns += time.clock_gettime_ns(~pid << 3 | 2)
    return Spent(voluntary, involuntary, cpu_ns, frozenset(threads))


def _status(pid: int, task: str) -> dict[str, str]:
    """Return the kernel's status fields of a thread (proc_pid_status(5))."""
    lines = Path(f"/proc/{pid}/task/{task}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def wakeups(pid: int) -> int:
    """Return how often a process and its helpers have woken up so far."""
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
    """Wait until all these servers have come to rest.

    Args:
        pids: Process ids of the servers, by name.
        pause: Waits for the given number of seconds, and serves the viewers meanwhile.
        quiet_s: A server is at rest after this long without a wake-up, seconds.
        limit_s: Longest wait, seconds.
        clock: Returns the time, seconds.
        count: Returns how often a process and its helpers have woken up so far.

    Returns:
        Time of each server's last wake-up after the start, seconds; None for servers that did not come to
        rest.
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
