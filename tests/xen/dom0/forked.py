"""vramtap in processes forked from one that has imported it: emulated, the import takes ten seconds."""

from __future__ import annotations

import json
import multiprocessing
import os
import queue
import signal
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from vramtap.cli.main import main
from xen.dom0.served import START_S

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from types import TracebackType

NOBODY: Final = 65534
_CONTEXT: Final = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [f"vramtap.{name}" for name in ("cli.serve", "cli.screenshot", "targets.xen", "trackers.xen")]
)


def _body(arguments: tuple[str, ...], output: Connection, errors: Connection, uid: int | None) -> None:
    for stream, number in ((output, 1), (errors, 2)):
        os.dup2(stream.fileno(), number)
        stream.close()
    if uid is not None:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
    sys.argv = ["vramtap", *arguments]
    main()


@dataclass(frozen=True, slots=True)
class Ended:
    """Result of a run of vramtap.

    Args:
        status: The exit status; if negative, the signal.
        output: The text of standard output.
        errors: The text of standard error.
    """

    status: int
    output: str
    errors: str

    @property
    def complaint(self) -> str:
        """The single error line. Asserts that the run failed with one line."""
        assert (self.status, self.output) == (1, ""), self
        lines = self.errors.splitlines()
        assert len(lines) == 1, self.errors
        assert lines[0].startswith("vramtap: "), self.errors
        return lines[0]


class Forked:
    """`vramtap ARGUMENTS`, running inside the `with` block.

    Args:
        arguments: The command line after the program's name.
        uid: User id of the process; None for root.
    """

    def __init__(self, *arguments: str, uid: int | None = None) -> None:
        self._arguments = arguments
        self._uid = uid
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._said: dict[str, list[str]] = {"output": [], "errors": []}

    def __enter__(self) -> Self:
        pipes = {name: _CONTEXT.Pipe(duplex=False) for name in self._said}
        theirs = [pipe[1] for pipe in pipes.values()]
        self.process = _CONTEXT.Process(target=_body, args=(self._arguments, *theirs, self._uid))
        self.process.start()
        for end in theirs:
            end.close()
        self._readers = [
            threading.Thread(target=self._read, args=(name, pipe[0]), daemon=True)
            for name, pipe in pipes.items()
        ]
        for reader in self._readers:
            reader.start()
        return self

    def _read(self, name: str, pipe: Connection) -> None:
        with pipe, os.fdopen(os.dup(pipe.fileno())) as lines:
            for line in lines:
                self._said[name].append(line)
                if name == "output":
                    self._lines.put(line)
        if name == "output":
            self._lines.put(None)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.is_alive():
            self._signal(signal.SIGINT)
            self.process.join(START_S)
        if self.process.is_alive():
            self.process.kill()
        self.ended()
        self.process.close()

    def _signal(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    @property
    def errors(self) -> str:
        """What vramtap has written to standard error so far."""
        return "".join(self._said["errors"])

    def port(self) -> int:
        """Wait for the next target that listens and return its port. Needs `--json`."""
        while True:
            line = self._lines.get(timeout=START_S)
            assert line is not None, f"{self._arguments} ended: {self.errors}"
            said: dict[str, Any] = json.loads(line)
            if "vnc" in said:
                return int(said["vnc"][1])

    def report(self) -> dict[str, Any]:
        """Return the last line of standard output after the end. Needs `--json`."""
        return dict(json.loads(self._said["output"][-1]))

    def ended(self) -> Ended:
        """Wait for the end of the run and return its result."""
        self.process.join(START_S)
        status = self.process.exitcode
        assert status is not None, f"{self._arguments}: still running; {self.errors}"
        for reader in self._readers:
            reader.join()
        return Ended(status, "".join(self._said["output"]), self.errors)

    def interrupt(self) -> Ended:
        """Send SIGINT and wait for the end."""
        self._signal(signal.SIGINT)
        return self.ended()

    def kill(self) -> Ended:
        """Send SIGKILL and wait for the end."""
        self._signal(signal.SIGKILL)
        return self.ended()


def serving(*urls: str, tracker: str = "auto") -> Forked:
    """Return a `vramtap serve` of these targets, each on its own port. Enter it with `with`."""
    return Forked("serve", *urls, "--vnc", "127.0.0.1:0", "--tracker", tracker, "--json")


def run(*arguments: str, uid: int | None = None) -> Ended:
    """Run vramtap until it ends by itself, and return the result."""
    with Forked(*arguments, uid=uid) as forked:
        return forked.ended()
