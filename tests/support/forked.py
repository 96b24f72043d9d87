"""A writer that writes in bursts, and processes that tap it and are killed or stopped in any state."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from support.forking_tapper import Board, Stage
from support.program import Lines
from support.testbed.supervise import spawn, stop
from support.writers import writer_of
from vramtap.linux.procfs import vm_flags
from vramtap.pages import PAGE_SIZE

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from support.testbed.writer import Writer

WIDTH: Final = 1024
HEIGHT: Final = 512
SIZE: Final = WIDTH * HEIGHT * 4
STAGE_S: Final = 1.0
"""Time limit for a state that usually comes tens of times a second. After it, any state is used."""
_TAPPER: Final = Path(__file__).with_name("forking_tapper.py")


def bursting(memory: str) -> contextlib.AbstractContextManager[Writer]:
    """Start a writer of three threads that write in bursts. Each thread records its writes.

    Args:
        memory: `anonymous` or `memfd`.
    """
    return writer_of(memory, SIZE, threads=3, visit=200, rest_us=5000)


def url_of(writer: Writer) -> str:
    """Return the target URL of the writer's memory."""
    return f"pid:{writer.pid}?address={writer.address:#x}&mode={WIDTH}x{HEIGHT}"


def picture_of(memory: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Return the picture in the memory."""
    return memory.view(np.uint32).reshape(HEIGHT, WIDTH) & np.uint32(0xFFFFFF)


class Tapper:
    """The program that forks tapping processes, and the stage of the current one.

    Args:
        child: The running program, `forking_tapper.py`.
        board: Shared memory in which they write their stage.
    """

    def __init__(self, child: Lines, board: Board) -> None:
        self.board = board
        self._child = child
        self._forked = 0

    @contextlib.contextmanager
    def at(self, moments: random.Random) -> Iterator[int]:
        """Fork a tapping process that runs up to a random moment. The block ends with all its processes.

        Yields:
            Its pidfd. The process is killed at the end of the block.
        """
        assert self._child.process.stdin is not None
        self._child.process.stdin.write(f"{moments.randrange(1 << 32)}\n".encode())
        self._child.process.stdin.flush()
        word, pid = self._line().split()
        assert word == "forked"
        process = os.pidfd_open(int(pid))
        try:
            wanted = moments.choice([Stage.ATTACHING, *Stage])
            if self._forked == 0:
                # The first one is always killed while it attaches: to start its helper takes longer.
                delay_s = moments.uniform(0, 0.02)
            elif wanted is Stage.ATTACHING:
                delay_s = moments.uniform(0, 0.1)
            else:
                assert self._line() == "attached"
                self._await(wanted)
                delay_s = moments.uniform(0, 0.0005)
            self._forked += 1
            ended, _, _ = select.select([process], [], [], delay_s)
            assert not ended, f"the tapping process ended by itself:\n{self._child.log}"
            yield process
            signal.pidfd_send_signal(process, signal.SIGKILL)
        finally:
            os.close(process)
        line = self._line()
        if line == "attached":
            line = self._line()
        assert line == f"gone -{int(signal.SIGKILL)}"

    def kill_at(self, moments: random.Random) -> Stage:
        """Kill a tapping process at a random moment, and wait until all its processes have ended.

        Returns:
            The stage in which it was killed.
        """
        with self.at(moments):
            pass
        return self.board.stage

    def _await(self, wanted: Stage) -> None:
        # A stage can last only a tenth of a millisecond, so this polls without a pause.
        deadline = time.monotonic() + STAGE_S
        while self.board.stage is not wanted and time.monotonic() < deadline:
            pass

    def _line(self) -> str:
        line = self._child.line()
        assert line is not None, f"the tapper ended:\n{self._child.log}"
        return line


@contextlib.contextmanager
def tapping(writer: Writer) -> Iterator[Tapper]:
    """Start the program, ready to fork."""
    with tempfile.TemporaryFile() as board, tempfile.TemporaryFile() as log:
        os.truncate(board.fileno(), PAGE_SIZE)
        command: list[str | Path] = [sys.executable, _TAPPER]
        command += map(str, (writer.pid, writer.address, SIZE // PAGE_SIZE, board.fileno()))
        process = spawn(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            pass_fds=(board.fileno(),),
            env={"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        child = Lines(process, log)
        try:
            yield Tapper(child, Board(board.fileno()))
        finally:
            stop(process)
            print(child.log)


def protections(pid: int) -> list[str]:
    """Return the mappings that are registered with a userfaultfd."""
    return [str(mapping) for mapping, flags in vm_flags(pid) if "uw" in flags]


def descriptors(pid: int) -> list[str]:
    """Return the targets of a process's open file descriptors, sorted."""
    return sorted(os.readlink(f"/proc/{pid}/fd/{entry}") for entry in os.listdir(f"/proc/{pid}/fd"))
