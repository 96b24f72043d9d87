"""Starts child processes that cannot outlive the tests."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import IO, TYPE_CHECKING, Final

from support.testbed.errors import TestbedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

# The death signal goes out when the *thread* that forked the child ends (prctl(2), PR_SET_PDEATHSIG), not
# when its process does. So one thread that lives as long as the process starts all of them.
_SPAWNER: Final = ThreadPoolExecutor(max_workers=1, thread_name_prefix="testbed-spawner")

Stream = int | IO[bytes] | None


def spawn(
    argv: Sequence[str | Path],
    *,
    stdin: Stream = subprocess.DEVNULL,
    stdout: Stream = subprocess.DEVNULL,
    stderr: Stream = None,
    pass_fds: Sequence[int] = (),
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a program that the kernel kills if this process dies, however it dies.

    Args:
        argv: The program and its arguments.
        stdin: As `subprocess.Popen`; nothing by default.
        stdout: As `subprocess.Popen`; thrown away by default.
        stderr: As `subprocess.Popen`; this process's by default.
        pass_fds: Descriptors it inherits under the same numbers.
        env: Variables set on top of this process's own.
        cwd: Working directory.

    Raises:
        TestbedError: `setpriv` is missing.
    """
    command = ["setpriv", "--pdeathsig", "KILL", "--", *map(str, argv)]

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=tuple(pass_fds),
            env={**os.environ, **(env or {})},
            cwd=cwd,
            process_group=0,  # a Ctrl-C at the terminal is for whoever started it
        )

    try:
        return _SPAWNER.submit(start).result()
    except FileNotFoundError as error:
        raise TestbedError(f"start {argv[0]}: setpriv not found (install the package util-linux)") from error


def stop(process: subprocess.Popen[bytes], *, gently_s: float = 0.0) -> int:
    """End a child and reap it; harmless if it has ended.

    Args:
        process: What `spawn` gave.
        gently_s: How many seconds it may take after SIGTERM; none: SIGKILL at once.

    Returns:
        Its exit status, negative for a signal.
    """
    if process.poll() is None and gently_s:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(gently_s)
    if process.poll() is None:
        process.kill()
    status = process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):
                stream.close()
    return status
