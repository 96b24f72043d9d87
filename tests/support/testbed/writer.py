"""A process that bursts memory with writes from several threads (`writer.c`)."""

from __future__ import annotations

import select
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from support.testbed.cache import compiled
from support.testbed.errors import TestbedError
from support.testbed.supervise import spawn, stop

if TYPE_CHECKING:
    from types import TracebackType

    from numpy.typing import NDArray

_SOURCE: Final = Path(__file__).resolve().parent / "writer.c"


class Writer:
    """The writer's process, alive inside the `with` block; its memory is mapped when the block is entered.

    Args:
        size_bytes: Of the memory; rounded down to pages.
        threads: How many write at once.
        writes: How many writes one `run` makes, all threads together.
        seed: The same seed makes each thread write the same places and values.
        pause_every: After how many writes each thread pauses for 50 microseconds; 0: never.
        visit: How many writes a thread makes in one place of a few pages before it goes to another;
            0: anywhere at any time.
        rest_us: How long a thread rests at most between two visits, microseconds; each time chosen at random.
        path: A file to map shared (`/proc/PID/fd/N` for a memfd); anonymous memory without it.
        pass_fds: Descriptors it inherits under the same numbers.
    """

    def __init__(
        self,
        size_bytes: int,
        *,
        threads: int = 2,
        writes: int = 100_000,
        seed: int = 1,
        pause_every: int = 0,
        visit: int = 0,
        rest_us: int = 0,
        path: Path | str | None = None,
        pass_fds: tuple[int, ...] = (),
    ) -> None:
        self.size_bytes = size_bytes & ~4095
        self._argv = [
            str(number) for number in (size_bytes, threads, writes, seed, pause_every, visit, rest_us)
        ]
        if path is not None:
            self._argv.append(str(path))
        self._pass_fds = pass_fds
        self._process: subprocess.Popen[bytes]
        self.address = 0
        """Where its memory begins in its address space."""

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def __enter__(self) -> Self:
        """Start it.

        Raises:
            TestbedError: it could not map the memory.
        """
        self._process = spawn(
            [compiled(_SOURCE), *self._argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=self._pass_fds,
        )
        try:
            self.address = int(self._answer("READY"), 16)
        except BaseException:
            stop(self._process)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill it."""
        stop(self._process)

    def run(self) -> int:
        """Make all writes and return when the last is done.

        Returns:
            How many it made.
        """
        self.begin()
        return self.finish()

    def begin(self) -> None:
        """Begin making all writes; `finish` waits for the last."""
        self._say("run")

    def finish(self, timeout_s: float | None = None) -> int:
        """Wait until what `begin` began is done.

        Returns:
            How many writes it made.

        Raises:
            TestbedError: it is not, in this time.
        """
        return int(self._answer("DONE", timeout_s))

    def run_forever(self) -> None:
        """Write until killed; takes no further command."""
        self._say("forever")
        self._answer("RUNNING")

    def steady(self) -> None:
        """Begin writing without end, with an account of all that is written; `halt` ends it."""
        self._say("steady")
        self._answer("RUNNING")

    def advance(self, timeout_s: float = 60.0) -> None:
        """Wait until each thread has been somewhere else since: none is held.

        Raises:
            TestbedError: one is.
        """
        self._say("advance")
        self._answer("ADVANCED", timeout_s)

    def halt(self, timeout_s: float = 60.0) -> int:
        """End what `steady` began, and have the memory compared with the account.

        Returns:
            How many writes were made.

        Raises:
            TestbedError: the memory is not what was written, or a thread is held.
        """
        self._say("halt")
        return int(self._answer("HALTED", timeout_s))

    def memory(self) -> NDArray[np.uint8]:
        """What its memory holds, in its own words: the ground truth.

        Returns:
            Shape `(size_bytes,)`.
        """
        with tempfile.TemporaryDirectory(prefix="vramtap-writer-") as directory:
            path = Path(directory) / "memory"
            self._say(f"dump {path}")
            self._answer("DUMPED")
            return np.fromfile(path, np.uint8)

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def _answer(self, word: str, timeout_s: float | None = None) -> str:
        assert self._process.stdout is not None
        # One answer at a time is under way, so that nothing waits in the file object's buffer.
        if timeout_s is not None and not select.select([self._process.stdout], [], [], timeout_s)[0]:
            raise TestbedError(f"writer: not {word} after {timeout_s:.0f} s")
        line = self._process.stdout.readline().decode().strip()
        if line.split(" ")[0] != word:
            raise TestbedError(f"writer: {line!r} instead of {word}")
        return line[len(word) :].strip()
