"""Check from /proc whether a process sleeps until an outside event wakes it."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_WITHOUT_TIMEOUT: Final[Mapping[int, Callable[[list[int]], bool]]] = {
    0: lambda a: True,  # read
    45: lambda a: True,  # recvfrom
    47: lambda a: True,  # recvmsg
    7: lambda a: a[2] & 0xFFFF_FFFF == 0xFFFF_FFFF,  # poll: milliseconds, -1
    232: lambda a: a[3] & 0xFFFF_FFFF == 0xFFFF_FFFF,  # epoll_wait
    281: lambda a: a[3] & 0xFFFF_FFFF == 0xFFFF_FFFF,  # epoll_pwait
    202: lambda a: a[3] == 0,  # futex: a time, NULL
    270: lambda a: a[4] == 0,  # pselect6
    271: lambda a: a[2] == 0,  # ppoll
}
"""By system call number (kernel: arch/x86/entry/syscalls/syscall_64.tbl): whether the call has no timeout."""
_STOPPED: Final = "it_value: (0, 0)"
PATIENCE_S: Final = 60.0


def await_rest(pid: int) -> None:
    """Wait until no thread or timer of a process and its children will wake by itself.

    Args:
        pid: Process id.

    Raises:
        AssertionError: a thread still runs or waits with a timeout, or a timer is set. The message names it.
    """
    deadline, pause = time.monotonic() + PATIENCE_S, threading.Event()
    while True:
        before = _switches(pid)
        restless = list(_restless(pid))
        # Threads are checked one after the other: all of them sleep if none has switched meanwhile.
        if not restless and _switches(pid) == before:
            return
        assert time.monotonic() < deadline, f"the process does not come to rest: {restless}"
        pause.wait(0.01)


def switches(pid: int) -> int:
    """Return the number of context switches of a process and its children."""
    return sum(_switches(pid).values())


def _processes(pid: int) -> list[int]:
    """Return a process and its children."""
    found = [pid]
    for entry in Path("/proc").iterdir():
        text = _read(entry / "stat") if entry.name.isdigit() else ""
        # The name can hold any character. It ends with the last parenthesis; state and parent follow.
        if text and int(text.rpartition(")")[2].split()[1]) == pid:
            found.append(int(entry.name))
    return found


def _switches(pid: int) -> dict[str, int]:
    counts = {}
    for process in _processes(pid):
        for task in Path(f"/proc/{process}/task").iterdir():
            lines = _read(task / "status").splitlines()
            counts[str(task)] = sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)
    return counts


def _restless(pid: int) -> Iterator[str]:
    """Yield each thread that runs or waits with a timeout, and each timer that is set."""
    for process in _processes(pid):
        for task in Path(f"/proc/{process}/task").iterdir():
            words = _read(task / "syscall").split()
            if words[:1] in ([], ["running"]):
                yield f"thread {task.name} of {process} runs"
            elif not _has_no_timeout([int(word, 0) for word in words]):
                yield f"thread {task.name} of {process} is in system call {words}"
        for info in Path(f"/proc/{process}/fdinfo").iterdir():
            text = _read(info)
            if "it_value" in text and _STOPPED not in text:
                yield f"timer {info.name} of {process} is set"


def _has_no_timeout(words: list[int]) -> bool:
    """Return whether a thread waits without a timeout.

    Args:
        words: Line of /proc/PID/syscall: number, six arguments, stack and instruction pointer.
    """
    check = _WITHOUT_TIMEOUT.get(words[0])
    return check is not None and check(words[1:7])


def _read(path: Path) -> str:
    """Return the text of a file in /proc. Empty if its process or thread has ended."""
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
