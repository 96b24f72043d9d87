"""The vramtap program in a child process: its output, its exit status, its servers."""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from support.rfb_client import RAW, PixelFormat, RfbClient
from support.testbed.supervise import spawn, stop

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

PROGRAM: Final = Path(sys.executable).with_name("vramtap")
PATIENCE_S: Final = 60.0
"""Time limit for every wait, seconds. Only a hang takes this long."""
_DEFECTS: Final = ("Traceback", "defect of vramtap", "never retrieved", "never awaited", "Warning:")


def assert_no_defect(log: str) -> None:
    """Check that the log has no traceback and no warning of the interpreter."""
    found = [word for word in _DEFECTS if word in log]
    assert not found, f"{found} in:\n{log}"


@dataclass(frozen=True)
class Finished:
    """A finished run of the program.

    Args:
        status: Exit status.
        out: Its stdout.
        err: Its stderr.
    """

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[Any]:
        """JSON objects on stdout, one per line."""
        return [json.loads(line) for line in self.out.splitlines()]


def run(*arguments: str | Path, env: Mapping[str, str] | None = None, prefix: Iterable[str] = ()) -> Finished:
    """Run the program to its end.

    Args:
        arguments: Arguments of the program.
        env: Variables added to this process's environment.
        prefix: A command that runs the program.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = spawn([*prefix, PROGRAM, *arguments], stdout=out, stderr=err, env=env)
        try:
            status = process.wait(PATIENCE_S)
        finally:
            stop(process)
        finished = Finished(status, _text(out), _text(err))
    assert_no_defect(finished.err)
    return finished


def assert_one_line(finished: Finished, status: int, pattern: str) -> None:
    """Check exit status and the only line on stderr.

    Args:
        finished: The run.
        status: Expected exit status.
        pattern: Regular expression for the whole line after `vramtap: `.
    """
    lines = finished.err.splitlines()
    assert finished.status == status, finished
    assert len(lines) == 1, finished.err
    assert re.fullmatch(f"vramtap: {pattern}", lines[0]), lines[0]


class Lines:
    """A running child process. A test reads its output line by line.

    Args:
        process: The process; its stdout is a pipe.
        log: File that gets its stderr.
    """

    def __init__(self, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
        assert process.stdout is not None
        self.process = process
        self.lines: list[str] = []
        """Lines read from stdout so far."""
        self._log = log
        self._rest = b""
        os.set_blocking(process.stdout.fileno(), False)

    @property
    def pid(self) -> int:
        """Process ID."""
        return self.process.pid

    @property
    def log(self) -> str:
        """Everything on its stderr so far."""
        return os.pread(self._log.fileno(), 1 << 24, 0).decode()

    def line(self, timeout_s: float = PATIENCE_S) -> str | None:
        """Return the next line; None after the process closed its stdout.

        Raises:
            TimeoutError: No line came.
        """
        assert self.process.stdout is not None
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError(f"no line; lines so far: {self.lines}\n{self.log}")
                data = os.read(self.process.stdout.fileno(), 65536)
                if not data:
                    return None
                self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        self.lines.append(line.decode())
        return self.lines[-1]

    def finish(self, number: signal.Signals | None = signal.SIGINT) -> Finished:
        """Send a signal, or none, read all output and wait for the end."""
        if number is not None:
            self.process.send_signal(number)
        while self.line() is not None:
            pass
        status = self.process.wait(PATIENCE_S)
        return Finished(status, "".join(line + "\n" for line in self.lines), self.log)


@contextlib.contextmanager
def started(
    *arguments: str | Path, env: Mapping[str, str] | None = None, prefix: Iterable[str] = ()
) -> Iterator[Lines]:
    """Run the program while the `with` block runs. Check its log for defects at the end.

    Args:
        arguments: Arguments of the program.
        env: Variables added to this process's environment.
        prefix: A command that runs the program.
    """
    with tempfile.TemporaryFile() as log:
        process = spawn([*prefix, PROGRAM, *arguments], stdout=subprocess.PIPE, stderr=log, env=env)
        child = Lines(process, log)
        try:
            yield child
        finally:
            stop(process)
            print(child.log)  # pytest shows it where a test fails
        assert_no_defect(child.log)


@dataclass
class Served:
    """A running `vramtap serve --json`.

    Args:
        child: The program.
        vnc: Host and port of each target's VNC server, in the order of the targets.
        web: URLs of the page, the best one first; empty without a page.
    """

    child: Lines
    vnc: list[tuple[str, int]] = field(default_factory=list)
    web: list[str] = field(default_factory=list)

    @property
    def pid(self) -> int:
        """Process ID of the server."""
        return self.child.pid

    @property
    def log(self) -> str:
        """Everything on its stderr so far."""
        return self.child.log

    def connect(
        self,
        encodings: Iterable[int] = (RAW,),
        pixel_format: PixelFormat | None = None,
        password: str | None = None,
        index: int = 0,
    ) -> RfbClient:
        """Return a client of the target with this index."""
        return RfbClient.connect(
            *self.vnc[index],
            password=password,
            encodings=encodings,
            pixel_format=pixel_format,
            timeout_s=PATIENCE_S,
        )

    def stop(self, number: signal.Signals | None = signal.SIGINT) -> list[dict[str, Any]]:
        """End the server and check its exit status.

        Args:
            number: Signal that ends it; None if it ends by itself.

        Returns:
            Its report on each target.
        """
        finished = self.child.finish(number)
        assert finished.status == 0, finished
        return [line for line in finished.lines if "stats" in line]


@contextlib.contextmanager
def serve(
    *targets: str,
    arguments: Iterable[str] = (),
    web: bool = False,
    env: Mapping[str, str] | None = None,
    prefix: Iterable[str] = (),
) -> Iterator[Served]:
    """Serve targets on free ports of loopback while the `with` block runs.

    Args:
        targets: TARGET strings.
        arguments: Further arguments; a `--vnc` replaces the default here.
        web: Whether to serve the page too.
        env: Variables added to this process's environment.
        prefix: A command that runs the program.
    """
    with _serving(["serve", *targets], len(targets), arguments, env, prefix, web=web) as served:
        yield served


@contextlib.contextmanager
def demo(
    *options: str,
    web: bool = False,
    env: Mapping[str, str] | None = None,
    prefix: Iterable[str] = (),
) -> Iterator[Served]:
    """Run `vramtap demo` on free ports of loopback while the `with` block runs.

    Args:
        options: Options of the command.
        web: Whether to serve the page too.
        env: Variables added to this process's environment.
        prefix: A command that runs the program.
    """
    with _serving(["demo"], 1, options, env, prefix, web=web) as served:
        yield served


@contextlib.contextmanager
def _serving(
    command: Iterable[str],
    targets: int,
    arguments: Iterable[str],
    env: Mapping[str, str] | None,
    prefix: Iterable[str],
    *,
    web: bool,
) -> Iterator[Served]:
    argv = ["-v", *command, "--json", "--vnc", "127.0.0.1:0", *arguments]
    if web:
        argv += ["--web", "127.0.0.1:0"]
    with started(*argv, env=env, prefix=prefix) as child:
        served = Served(child)
        while len(served.vnc) < targets or (web and not served.web):
            line = child.line()
            assert line is not None, f"it ended with status {child.process.wait()}: {child.log}"
            message = json.loads(line)
            if "vnc" in message:
                host, port = message["vnc"]
                served.vnc.append((host, port))
            elif "web" in message:
                served.web.append(message["web"])
        yield served


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()
