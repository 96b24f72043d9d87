"""SchedstatProbe: the value differs after the process has run, and stays the same while it sleeps."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from support.testbed.supervise import spawn, stop
from vramtap.errors import KernelError
from vramtap.linux.schedstat import SchedstatProbe

ECHO = "import sys\nfor line in sys.stdin: print(line, end='', flush=True)"


def test_value_differs_after_process_has_run() -> None:
    process = spawn([sys.executable, "-c", ECHO], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    with SchedstatProbe(process.pid) as clock:
        try:
            seen = []
            for _ in range(10):
                process.stdin.write(b"go\n")
                process.stdin.flush()
                assert process.stdout.readline() == b"go\n"
                # The process may not sleep again yet, but it has run since the last read.
                seen.append(clock.read())
            assert None not in seen
            assert len(set(seen)) == len(seen)
        finally:
            stop(process)
        assert clock.read() is None
        assert clock.read() is None, "an ended process stays ended"


def test_value_of_sleeping_process_stays_the_same() -> None:
    process = spawn([sys.executable, "-c", ECHO], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(b"go\n")
        process.stdin.flush()
        process.stdout.readline()
        with open(f"/proc/{process.pid}/stat") as stat:
            while True:
                stat.seek(0)
                if stat.read().rpartition(")")[2].split()[0] == "S":
                    break
        with SchedstatProbe(process.pid) as clock:
            assert clock.read() == clock.read()
    finally:
        stop(process)


def test_missing_process_raises_enoent() -> None:
    process = spawn(["true"])
    process.wait()
    with pytest.raises(KernelError, match=f"open /proc/{process.pid}/schedstat") as caught:
        SchedstatProbe(process.pid)
    assert caught.value.errno == errno.ENOENT


def test_closed_probe_reads_none() -> None:
    clock = SchedstatProbe(os.getpid())
    assert clock.read()
    clock.close()
    clock.close()
    assert clock.read() is None
