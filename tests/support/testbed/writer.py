"""A process that writes to memory from several threads (`writer.c`)."""

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
    """A writer process that runs inside the `with` block. Its memory is mapped when the block starts.

    Args:
        size_bytes: Size of the memory, bytes; rounded down to pages.
        threads: Number of threads that write.
        writes: Number of writes of one `run`, all threads together.
        seed: Seed of the random places and values of each thread.
        pause_every: Number of writes after which a thread pauses for 50 us; 0 for no pauses.
        visit: Number of writes of a thread in one place of a few pages before it moves to another;
            0 chooses a new place for every write.
        rest_us: Longest rest of a thread between two visits, us. Each rest is random.
        path: A file to map shared (`/proc/PID/fd/N` for a memfd); None for anonymous memory.
        pass_fds: File descriptors that the process inherits under the same numbers.
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
        """Address of the memory in the process."""

    @property
    def pid(self) -> int:
        """Process ID of the writer."""
        return self._process.pid

    def __enter__(self) -> Self:
        """Start the process.

        Raises:
            TestbedError: It cannot map the memory.
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
        """Kill the process."""
        stop(self._process)

    def run(self) -> int:
        """Make all writes and wait for the last.

        Returns:
            The number of writes.
        """
        self.begin()
        return self.finish()

    def begin(self) -> None:
        """Start to write; `finish` waits for the last write."""
        self._say("run")

    def finish(self, timeout_s: float | None = None) -> int:
        """Wait for the last write after `begin`.

        Returns:
            The number of writes.

        Raises:
            TestbedError: The writes take longer than this.
        """
        return int(self._answer("DONE", timeout_s))

    def run_forever(self) -> None:
        """Write until killed. The writer accepts no further commands."""
        self._say("forever")
        self._answer("RUNNING")

    def steady(self) -> None:
        """Write until `halt`, and keep a record of all writes."""
        self._say("steady")
        self._answer("RUNNING")

    def advance(self, timeout_s: float = 60.0) -> None:
        """Wait until each thread has moved to another place, so none is held.

        Raises:
            TestbedError: A thread is held.
        """
        self._say("advance")
        self._answer("ADVANCED", timeout_s)

    def halt(self, timeout_s: float = 60.0) -> int:
        """Stop the writes of `steady` and compare the memory with the record.

        Returns:
            The number of writes.

        Raises:
            TestbedError: The memory differs from the record, or a thread is held.
        """
        self._say("halt")
        return int(self._answer("HALTED", timeout_s))

    def memory(self) -> NDArray[np.uint8]:
        """Return the memory as the writer itself reads it: the ground truth.

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
        # The writer sends one answer per command, so the file object's buffer is empty here.
        if timeout_s is not None and not select.select([self._process.stdout], [], [], timeout_s)[0]:
            raise TestbedError(f"writer: not {word} after {timeout_s:.0f} s")
        line = self._process.stdout.readline().decode().strip()
        if line.split(" ")[0] != word:
            raise TestbedError(f"writer: {line!r} instead of {word}")
        return line[len(word) :].strip()
