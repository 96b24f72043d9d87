"""Starts child processes that end with the tests."""

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

# The kernel sends the death signal when the *thread* that forked the child ends, not when its process ends
# (prctl(2), PR_SET_PDEATHSIG). So one thread, which lives as long as the process, starts all children.
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
    """Start a program that the kernel kills when this process ends, even by SIGKILL.

    Args:
        argv: The program and its arguments.
        stdin: As in `subprocess.Popen`; empty by default.
        stdout: As in `subprocess.Popen`; discarded by default.
        stderr: As in `subprocess.Popen`; by default that of this process.
        pass_fds: File descriptors that the program inherits under the same numbers.
        env: Variables added to this process's environment.
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
            process_group=0,  # Ctrl-C in the terminal does not reach the child
        )

    try:
        return _SPAWNER.submit(start).result()
    except FileNotFoundError as error:
        raise TestbedError(f"start {argv[0]}: setpriv not found (install the package util-linux)") from error


def stop(process: subprocess.Popen[bytes], *, gently_s: float = 0.0) -> int:
    """End a child and reap it. The child may have ended already.

    Args:
        process: The child.
        gently_s: Time between SIGTERM and SIGKILL, seconds; 0 sends SIGKILL at once.

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
