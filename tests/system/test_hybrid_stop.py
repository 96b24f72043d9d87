"""Tests that stop vramtap or its watchdog: the other process releases the writer, and no write is lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from support.forced import ForcedPolicy, require_arming, tapped
from support.forked import SIZE, bursting, picture_of, tapping, url_of
from support.model_client import ModelClient
from support.program import Lines
from support.seeds import new_seed
from support.testbed.supervise import spawn, stop
from support.testbed.writer import Writer
from vramtap.tap.timings import TapTimings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TAPPER = Path(__file__).parents[1] / "support" / "following_tapper.py"
HANG_S = 60.0
"""Time limit of a wait. vramtap or its watchdog releases a writer within milliseconds."""
ROUNDS = 3


@pytest.fixture(autouse=True)
def arming() -> None:
    require_arming()


def state_of(pid: int) -> str:
    """Return the state of a process, one letter (proc_pid_stat(5))."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@contextlib.contextmanager
def stopped(pid: int, send: Callable[[int, int], None] = os.kill) -> Iterator[None]:
    """Stop a process, or its whole group, until the block ends.

    Args:
        pid: Process id, which is also the id of the group that the process leads.
        send: `os.kill` or `os.killpg`.
    """
    send(pid, signal.SIGSTOP)
    try:
        # The process may be no child of this one, so waitpid cannot report it.
        while state_of(pid) != "T":
            os.sched_yield()
        yield
        assert state_of(pid) == "T", "another process continued it"
    finally:
        send(pid, signal.SIGCONT)


class Tapper:
    """A process that follows the writer, and arms whenever the writer is idle.

    Args:
        child: The running program, `following_tapper.py`.
        directory: Directory for pictures.
    """

    def __init__(self, child: Lines, directory: Path) -> None:
        self.child = child
        self._picture = directory / "truth.npy"
        word, pid = self._receive().split()
        assert word == "watchdog"
        self.watchdog_pid = int(pid)

    def armed(self) -> None:
        """Wait until the process is armed."""
        assert self._send("armed") == "armed"

    def shows(self, writer: Writer) -> None:
        """Wait until the process shows the memory of the writer, which is idle."""
        np.save(self._picture, picture_of(writer.memory()))
        assert self._send(f"show {self._picture}") == "shows"

    def _send(self, line: str) -> str:
        assert self.child.process.stdin is not None
        self.child.process.stdin.write(f"{line}\n".encode())
        self.child.process.stdin.flush()
        return self._receive()

    def _receive(self) -> str:
        line = self.child.line(2 * HANG_S)
        assert line is not None, f"the tapper ended:\n{self.child.log}"
        return line


@pytest.fixture
def writer() -> Iterator[Writer]:
    """A writer that writes all over its memory at `begin`."""
    with Writer(SIZE, threads=4, writes=100_000) as writer:
        yield writer


@pytest.fixture
def tapper(writer: Writer, tmp_path: Path) -> Iterator[Tapper]:
    with tempfile.TemporaryFile() as log:
        process = spawn(
            [sys.executable, TAPPER, url_of(writer)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        child = Lines(process, log)
        try:
            yield Tapper(child, tmp_path)
        finally:
            stop(process)
            print(child.log)


@pytest.mark.parametrize("send", [os.kill, os.killpg], ids=["process", "group"])
def test_a_stop_of_vramtap_while_armed_does_not_hold_the_writer(
    writer: Writer, tapper: Tapper, send: Callable[[int, int], None]
) -> None:
    """A debugger stops the process; Ctrl-Z stops its group. The watchdog is in a session of its own."""
    assert os.getsid(tapper.watchdog_pid) == tapper.watchdog_pid != os.getsid(tapper.child.pid)
    tapper.armed()
    for _ in range(ROUNDS):
        with stopped(tapper.child.pid, send):
            assert state_of(tapper.watchdog_pid) != "T"
            writer.begin()
            assert writer.finish(HANG_S) == 100_000
        tapper.shows(writer)
        tapper.armed()


def test_a_stop_of_the_watchdog_while_armed_does_not_hold_the_writer(writer: Writer, tapper: Tapper) -> None:
    tapper.armed()
    for _ in range(ROUNDS):
        with stopped(tapper.watchdog_pid):
            for _ in range(2):
                writer.begin()
                assert writer.finish(HANG_S) == 100_000
                tapper.shows(writer)
        # The watchdog may now act late on writes that vramtap already handled.
        writer.begin()
        assert writer.finish(HANG_S) == 100_000
        tapper.shows(writer)
        tapper.armed()
    assert f"the watchdog (pid {tapper.watchdog_pid}) did not answer a write" in tapper.child.log


@pytest.fixture
def moments() -> random.Random:
    """A source of random moments. The report of a failed test shows its seed."""
    return random.Random(new_seed())


@pytest.mark.stress
@pytest.mark.parametrize("memory", ["anonymous", "memfd"])
def test_a_stop_of_vramtap_at_a_random_moment_does_not_hold_the_writer(
    memory: str, moments: random.Random, stress: int
) -> None:
    """Vramtap stops while it attaches, arms or disarms. The writer is not held."""
    with bursting(memory) as writer:
        writer.steady()
        with tapping(writer) as tapper:
            for _ in range(10 * stress):
                with tapper.at(moments) as process:
                    signal.pidfd_send_signal(process, signal.SIGSTOP)
                    writer.advance()
                    signal.pidfd_send_signal(process, signal.SIGCONT)
                    writer.advance()
        writer.halt()


@pytest.mark.stress
async def test_a_stop_of_the_watchdog_at_a_random_moment_loses_no_write(
    moments: random.Random, stress: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watchdog continues late. The protection that it lifts then is not relied upon."""
    policy = ForcedPolicy(moments.randrange(1 << 32), arm=0.7)
    with bursting("anonymous") as writer:
        async with (
            tapped(url_of(writer), policy, timings=TapTimings(interval_s=0.001, idle_after_s=0.0)) as (
                tap,
                tracker,
            ),
            ModelClient(tap) as client,
        ):
            for _ in range(20 * stress):
                writer.steady()
                for _ in range(5):
                    await asyncio.sleep(moments.uniform(0, 0.01))
                    pid = tracker.watchdog_pid
                    assert pid is not None
                    os.kill(pid, signal.SIGSTOP)
                    await asyncio.sleep(moments.uniform(0, 0.02))
                    os.kill(pid, signal.SIGCONT)
                await asyncio.to_thread(writer.advance)
                await asyncio.to_thread(writer.halt)
                await client.shows(picture_of(await asyncio.to_thread(writer.memory)))
            assert tap.stats.all_dirty["woken"] > 0
            assert tap.stats.failures == 0
