"""Child processes that `vramtap doctor` tries its abilities on."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from typing import TYPE_CHECKING, Final

from vramtap.errors import VramtapError
from vramtap.pages import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGES: Final = 2025
"""Pages of a child's memory: a 1920x1080 screen of 32 bits a pixel."""
_UNPRIVILEGED: Final = 65534
"""User id without rights (kernel: overflowuid, include/linux/highuid.h)."""
_PROGRAM: Final = f"""
import ctypes, mmap, sys
memory = mmap.mmap(-1, {PAGES * PAGE_SIZE})
print(ctypes.addressof(ctypes.c_char.from_buffer(memory)), flush=True)
for line in sys.stdin:
    memory[int(line)] = 1
    print("written", flush=True)
"""


class Child:
    """A child process with `PAGES` pages of memory that writes on command.

    Attributes:
        pid: Its process id.
        address: Address of its memory.

    Raises:
        VramtapError: It does not start.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        self.address = int(self._answer())

    def write(self, offset_bytes: int) -> None:
        """Let the child write one byte, and wait until it has.

        Args:
            offset_bytes: Where in its memory.

        Raises:
            VramtapError: The child has ended.
        """
        if self._process.stdin is None:
            raise VramtapError("write", "doctor's child process", "it has no pipe")
        self._process.stdin.write(f"{offset_bytes}\n")
        self._process.stdin.flush()
        self._answer()

    def kill(self) -> None:
        """Kill the child, and wait for its end."""
        with self._process:
            self._process.kill()

    def _answer(self) -> str:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise VramtapError("start", "doctor's child process", "it ended without an answer")
        return line


@contextlib.contextmanager
def child() -> Iterator[Child]:
    """Run a child that is killed when the block ends.

    Raises:
        VramtapError: It does not start.
    """
    running = Child()
    try:
        yield running
    finally:
        running.kill()


@contextlib.contextmanager
def foreign_process() -> Iterator[tuple[int, str]]:
    """Give a process of another user: a child if this user may start one, else process 1.

    Yields:
        Its pid, and what it is.
    """
    try:
        process = subprocess.Popen(
            ["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, user=_UNPRIVILEGED
        )
    except OSError:
        yield 1, "process 1"
        return
    with process:
        yield process.pid, f"a child of user {_UNPRIVILEGED}"
