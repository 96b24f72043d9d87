"""Tests of child processes: they end with the tests."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
from pathlib import Path

from support.testbed.supervise import spawn, stop

_TESTS = Path(__file__).resolve().parents[2]
_PARENT = """
import subprocess, sys, threading
from support.testbed.supervise import spawn
started = []
thread = threading.Thread(target=lambda: started.append(spawn(["cat"], stdin=subprocess.PIPE)))
thread.start()
thread.join()
print(started[0].pid, flush=True)
sys.stdin.read()
"""


def test_child_ends_with_its_parent_but_not_with_the_spawning_thread() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT],
        env={**os.environ, "PYTHONPATH": str(_TESTS)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as parent:
        assert parent.stdout is not None
        child = os.pidfd_open(int(parent.stdout.readline()))
        try:
            assert not select.select([child], [], [], 0)[0]
            parent.kill()
            assert select.select([child], [], [], 30)[0] == [child]
        finally:
            os.close(child)


def test_stop_can_be_repeated() -> None:
    process = spawn(["cat"], stdin=subprocess.PIPE)
    assert stop(process) == -9
    assert stop(process) == -9


def test_gentle_stop_sends_sigterm_first() -> None:
    process = spawn(
        ["sh", "-c", "trap 'exit 3' TERM; echo READY; read line"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"READY\n"
    assert stop(process, gently_s=30) == 3


def test_spawning_from_several_threads() -> None:
    processes: list[subprocess.Popen[bytes]] = []
    threads = [threading.Thread(target=lambda: processes.append(spawn(["true"]))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.wait() for process in processes] == [0] * 8
