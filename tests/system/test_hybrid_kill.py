"""The hybrid's two processes are killed at random moments: nothing is lost, held, or left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lab.supervise import spawn, stop
from lab.writer import Writer
from model_client import ModelClient
from system.forced import ForcedPolicy, tapped, until
from system.forking_tapper import Board, Stage
from system.program import Lines
from vramtap import tap as tap_module
from vramtap.linux.procfs import vm_flags
from vramtap.pages import PAGE_SIZE

TAPPER = Path(__file__).with_name("forking_tapper.py")
WIDTH, HEIGHT = 1024, 512
SIZE = WIDTH * HEIGHT * 4
MOMENTS, MOMENTS_LONG = 25, 1000
"""Of kills, over all kinds of memory: what a change is held to, and what `make storm` does."""
EXACT_EVERY = 10
"""Kills between two taps that have to show all."""
STAGE_S = 1.0
"""How long a state is waited for that comes tens of times a second; then any will do."""
SHORT_S = 0.001
"""Between two looks of a tap that is to change its state often."""


@pytest.fixture(params=["anonymous", "memfd"])
def writer(request: pytest.FixtureRequest) -> Iterator[Writer]:
    """Bursts and silence, from three threads, each of which keeps an account of what it writes."""
    with contextlib.ExitStack() as cleanup:
        path: str | None = None
        pass_fds: tuple[int, ...] = ()
        if request.param == "memfd":
            descriptor = os.memfd_create("killed")
            cleanup.callback(os.close, descriptor)
            path, pass_fds = f"/proc/self/fd/{descriptor}", (descriptor,)
        yield cleanup.enter_context(
            Writer(SIZE, threads=3, visit=200, rest_us=5000, path=path, pass_fds=pass_fds)
        )


@pytest.fixture
def moments(storm: int) -> random.Random:
    """A source of random moments, whose seed stands in the report of a test that fails."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    return random.Random(seed)


class Tapper:
    """The program that forks tapping processes, and what they are at.

    Args:
        child: It.
        board: Where they write it down.
    """

    def __init__(self, child: Lines, board: Board) -> None:
        self.board = board
        self._child = child

    def kill_at(self, moments: random.Random) -> Stage:
        """Let a tapping process attach and run, kill it, and wait until nothing of it is left.

        Returns:
            What it was at.
        """
        assert self._child.process.stdin is not None
        self._child.process.stdin.write(f"{moments.randrange(1 << 32)}\n".encode())
        self._child.process.stdin.flush()
        word, pid = self._line().split()
        assert word == "forked"
        process = os.pidfd_open(int(pid))
        try:
            wanted = moments.choice([Stage.ATTACHING, *Stage])
            if wanted is Stage.ATTACHING:
                delay_s = moments.uniform(0, 0.2)
            else:
                assert self._line() == "attached"
                self._await(wanted)
                delay_s = moments.uniform(0, 0.0005)
            ended, _, _ = select.select([process], [], [], delay_s)
            assert not ended, f"the tapping process ended by itself:\n{self._child.log}"
            signal.pidfd_send_signal(process, signal.SIGKILL)
        finally:
            os.close(process)
        line = self._line()
        if line == "attached":
            line = self._line()
        assert line == f"gone -{int(signal.SIGKILL)}"
        return self.board.stage

    def _await(self, wanted: Stage) -> None:
        # States last from a tenth of a millisecond on: there is no time for anything but to keep looking.
        deadline = time.monotonic() + STAGE_S
        while self.board.stage is not wanted and time.monotonic() < deadline:
            pass

    def _line(self) -> str:
        line = self._child.line()
        assert line is not None, f"the tapper ended:\n{self._child.log}"
        return line


@contextlib.contextmanager
def tapping(writer: Writer) -> Iterator[Tapper]:
    """The program, loaded and ready to fork."""
    with tempfile.TemporaryFile() as board, tempfile.TemporaryFile() as log:
        os.truncate(board.fileno(), PAGE_SIZE)
        command: list[str | Path] = [sys.executable, TAPPER]
        command += map(str, (writer.pid, writer.address, SIZE // PAGE_SIZE, board.fileno()))
        process = spawn(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            pass_fds=(board.fileno(),),
            env={"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        child = Lines(process, log)
        try:
            yield Tapper(child, Board(board.fileno()))
        finally:
            stop(process)
            print(child.log)


def protections(pid: int) -> list[str]:
    """Mappings that a userfaultfd has hold of."""
    return [str(mapping) for mapping, flags in vm_flags(pid) if "uw" in flags]


def descriptors(pid: int) -> list[str]:
    """What a process has open."""
    return sorted(os.readlink(f"/proc/{pid}/fd/{entry}") for entry in os.listdir(f"/proc/{pid}/fd"))


def url_of(writer: Writer) -> str:
    return f"pid:{writer.pid}?address={writer.address:#x}&mode={WIDTH}x{HEIGHT}"


async def shows_all(writer: Writer, client: ModelClient) -> None:
    """The writer, which writes steadily, was never disturbed, and the client comes to show its memory."""
    await asyncio.to_thread(writer.halt)
    memory = await asyncio.to_thread(writer.memory)
    await client.shows(memory.view(np.uint32).reshape(HEIGHT, WIDTH) & np.uint32(0xFFFFFF))


@pytest.mark.storm
async def test_we_are_killed_at_random_moments(
    writer: Writer, moments: random.Random, storm: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tap_module, "IDLE_AFTER_S", 0.0)
    before, came = descriptors(writer.pid), Counter[Stage]()
    rounds = -(-(MOMENTS if storm == 1 else MOMENTS_LONG) // 2)
    writer.steady()
    with tapping(writer) as tapper:
        for number in range(rounds):
            stage = await asyncio.to_thread(tapper.kill_at, moments)
            came[stage] += 1
            where = f"killed {stage.name}, the {number + 1}. time"
            assert not protections(writer.pid), where
            assert descriptors(writer.pid) == before, where
            await asyncio.to_thread(writer.advance)
            if number % EXACT_EVERY == 0 or number == rounds - 1:
                policy = ForcedPolicy(moments.randrange(1 << 32), arm=0.7)
                async with (
                    tapped(url_of(writer), policy, interval_s=SHORT_S) as (tap, tracker),
                    ModelClient(tap) as client,
                ):
                    assert not tracker.unarmable, where
                    await client.until(lambda: tap.stats.everything["woken"] > 0)
                    await shows_all(writer, client)
                writer.steady()
    writer.halt()
    print({stage.name: count for stage, count in came.items()})
    assert came[Stage.ATTACHING]
    assert len(came) > 2
    if storm > 1:
        assert set(came) == set(Stage), "it was killed at everything it does"


@pytest.mark.storm
async def test_the_watchdog_is_killed_at_random_moments(
    writer: Writer,
    moments: random.Random,
    storm: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The tap goes on, is never armed again, loses nothing, and says what has happened."""
    monkeypatch.setattr(tap_module, "IDLE_AFTER_S", 0.0)
    before, came = descriptors(writer.pid), Counter[bool]()
    for _ in range(5 if storm == 1 else 100):
        writer.steady()
        policy = ForcedPolicy(moments.randrange(1 << 32), arm=0.7)
        async with (
            tapped(url_of(writer), policy, interval_s=SHORT_S) as (tap, tracker),
            ModelClient(tap) as client,
        ):
            await client.until(lambda: tap.stats.everything["woken"] > 0)
            await asyncio.sleep(moments.uniform(0, 0.03))
            if moments.random() < 0.5:
                await until(lambda: tracker.armed, 0)
            pid = tracker.watchdog_pid
            assert pid is not None
            came[tracker.armed] += 1
            caplog.clear()
            os.kill(pid, signal.SIGKILL)
            await until(lambda: tracker.watchdog_pid is None)
            assert f"the watchdog (pid {pid}) has ended: never armed again" in caplog.text
            assert not tracker.armed
            await asyncio.to_thread(writer.advance)
            await shows_all(writer, client)
            assert tap.stats.failures == 0
            assert tap.closed is None
        assert not protections(writer.pid)
        assert descriptors(writer.pid) == before
    print(f"armed: {came[True]}, not armed: {came[False]}")
