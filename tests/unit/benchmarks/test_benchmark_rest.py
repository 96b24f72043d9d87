"""Context switches and CPU time include helpers; a server at rest does not wake up."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from benchmarks.rest import Spent, family, name_of, spent, wait_for_rest

from support.testbed.errors import TestbedError
from support.testbed.supervise import spawn, stop

# A child in its own session, like the helper at attach; both wait for the end of their input.
PARENT = """
import subprocess, sys
child = subprocess.Popen(["cat"], start_new_session=True, stdin=subprocess.PIPE)
print(child.pid, flush=True)
sys.stdin.read()
child.stdin.close()
child.wait()
"""


def test_family_includes_a_helper_in_its_own_session() -> None:
    process = spawn([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert family(process.pid) == [process.pid, child]
        assert name_of(child) in ("cat", "python", "python3")  # before and after its exec
        both, one = spent([process.pid, child]), spent([process.pid])
        assert both.threads == {process.pid, child}
        assert both.cpu_ns > one.cpu_ns > 0
    finally:
        assert process.stdin is not None
        process.stdin.close()
        stop(process, gently_s=10)


def test_since_is_the_difference() -> None:
    before = Spent(10, 2, 5_000, frozenset({1, 2}))
    assert Spent(17, 3, 9_000, frozenset({1, 3})).since(before) == Spent(7, 1, 4_000, frozenset({2, 3}))


class Clockwork:
    """Processes that wake up at given times, seconds; `pause` advances the clock."""

    def __init__(self, wakeups: dict[int, list[float]]) -> None:
        self.now_s = 100.0
        self._wakeups = wakeups

    def pause(self, duration_s: float) -> None:
        self.now_s += duration_s

    def count(self, pid: int) -> int:
        return sum(100.0 + at_s <= self.now_s for at_s in self._wakeups[pid])

    def wait(self, limit_s: float) -> dict[str, float | None]:
        return wait_for_rest(
            {"once": 1, "always": 2} if 2 in self._wakeups else {"once": 1},
            self.pause,
            quiet_s=5.0,
            limit_s=limit_s,
            clock=lambda: self.now_s,
            count=self.count,
        )


def test_rest_begins_after_the_last_wakeup() -> None:
    clockwork = Clockwork({1: [0.5, 3.0, 7.5]})
    assert clockwork.wait(60.0) == {"once": 8.0}  # checked every second
    assert clockwork.now_s == 113.0


def test_wait_for_rest_ends_at_its_limit() -> None:
    clockwork = Clockwork({1: [3.0], 2: [second * 2.0 for second in range(100)]})
    assert clockwork.wait(30.0) == {"once": 3.0, "always": None}
    assert clockwork.now_s == 130.0


def test_server_that_woke_up_shortly_before_the_limit_is_not_at_rest() -> None:
    assert Clockwork({1: [3.0], 2: [second * 4.0 for second in range(8)]}).wait(30.0) == {
        "once": 3.0,
        "always": None,
    }


def test_ended_process_is_an_error() -> None:
    process = spawn(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(TestbedError, match=f"pid {process.pid} has ended"):
        spent([process.pid])  # a zombie
    process.wait()
    with pytest.raises(TestbedError, match=f"pid {process.pid} has ended"):
        spent([process.pid])
