"""What the tests of `LibxlMonitor` share: a socket, a lock file, and programs that use them too."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from support import fake_libxl
from support.testbed.supervise import spawn, stop
from vramtap.linux.flock import LockFile
from vramtap.targets.qemu.qmp import DEFAULT_TIMEOUTS, MonitorTimeouts
from vramtap.targets.xen.libxl_qmp import DEFAULT_SESSION_TIMINGS, LibxlMonitor, SessionTimings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

HANG_S: Final = 60
"""A test that takes longer hangs."""
LONG_S: Final = 1000.0
LONG_SESSIONS: Final = SessionTimings(hold_s=LONG_S, linger_s=LONG_S)
"""Sessions last until something ends them."""


@dataclass(frozen=True)
class Place:
    """The socket and the lock file of a domain."""

    socket: Path
    lock: Path

    @classmethod
    def in_directory(cls, directory: Path) -> Place:
        """Return paths in a directory. The files do not exist yet."""
        return cls(directory / "qmp-libxl-7", directory / "userdata-l.7.qmp-socket-lock")

    def monitor(
        self,
        *,
        timings: SessionTimings = DEFAULT_SESSION_TIMINGS,
        timeouts: MonitorTimeouts = DEFAULT_TIMEOUTS,
    ) -> LibxlMonitor:
        """Return a monitor for this domain."""
        return LibxlMonitor(str(self.socket), str(self.lock), "xen:7", timings=timings, timeouts=timeouts)

    def assert_unlocked(self) -> None:
        """Check that no process holds the lock."""
        lock = LockFile.take(str(self.lock))
        assert lock is not None
        lock.release()


def echo(command: str, arguments: dict[str, Any]) -> object:
    """Answer a command with itself."""
    return [command, arguments]


@contextlib.asynccontextmanager
async def closing(*monitors: LibxlMonitor) -> AsyncIterator[None]:
    """Close monitors at the end of the block, which must not hang."""
    try:
        async with asyncio.timeout(HANG_S):
            yield
    finally:
        for monitor in monitors:
            await monitor.close()


@contextlib.contextmanager
def libxl(*arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    """Run `fake_libxl` during the block."""
    command = [sys.executable, fake_libxl.__file__, *map(str, arguments)]
    process = spawn(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        stop(process)


def line(process: subprocess.Popen[bytes]) -> bytes:
    """Read a line of a process's output."""
    assert process.stdout is not None
    return process.stdout.readline()


async def hammer(monitor: LibxlMonitor, name: str, enough: Callable[[int], bool]) -> int:
    """Run commands one after the other; return how many."""
    number = 0
    while not enough(number):
        arguments = {"name": f"{name} {number}"}
        assert await monitor.execute("echo", arguments) == ["echo", arguments]
        number += 1
    return number
