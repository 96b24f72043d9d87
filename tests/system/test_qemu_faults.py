"""Faults while a guest is tapped: in vramtap, in QEMU, in the connection between them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import vramtap
from support import tapper
from support.model_client import ModelClient
from support.process_state import descriptors, protections
from support.testbed.errors import TestbedError
from support.testbed.guest import Guest
from support.testbed.supervise import spawn, stop
from vramtap.errors import AttachError, NotFound, NotTappable, Refused, TargetGone, VramtapError
from vramtap.tap.tap import Tap
from vramtap.targets.qemu.qmp import DEFAULT_TIMEOUTS, MonitorTimeouts
from vramtap.targets.qemu.target import QemuTarget, QemuTimeouts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator


TAPPER = Path(tapper.__file__)
HANG_S = 60.0
"""A test that takes longer hangs."""


@pytest.fixture(autouse=True)
def no_traceback(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Check that every fault is logged in one line, without a traceback."""
    caplog.set_level(logging.INFO, "vramtap")
    yield
    gc.collect()  # asyncio complains about a task's exception when the task is freed
    records = caplog.get_records("call") + caplog.get_records("teardown")
    loud = [r for r in records if r.exc_info or r.levelno >= logging.ERROR]
    assert not loud, [r.getMessage() for r in loud]


@pytest.fixture
def moments(stress: int) -> random.Random:
    """Return a source of random moments. The report of a failed test contains its seed."""
    seed = random.SystemRandom().randrange(1 << 32) if stress > 1 else 20
    print(f"seed {seed}")
    return random.Random(seed)


@pytest.fixture
def starting_guest() -> Iterator[Guest]:
    """Start a guest, and do not wait until it has booted."""
    guest = Guest()
    guest.start()
    yield guest
    guest.stop()


def wait_for(guest: Guest, happened: Callable[[], bool], what: str) -> None:
    """Wait for a condition while QEMU's main loop runs."""
    for _ in range(10_000):
        if happened():
            return
        guest.monitor.execute("query-status")
    pytest.fail(f"not within 10,000 rounds of QEMU's main loop: {what}")


async def exact(guest: Guest, url: str | None = None, tracker: str = "auto") -> None:
    """Check that a new tap shows what the guest shows."""
    async with (
        asyncio.timeout(HANG_S),
        vramtap.open(url or guest.url, tracker=tracker) as tap,
        ModelClient(tap) as client,
    ):
        await asyncio.to_thread(guest.run, "fbtool stress 1 1000")
        await client.shows(await asyncio.to_thread(guest.screendump))


# vramtap is killed


def kill_at_a_random_moment(guest: Guest, moments: random.Random) -> str:
    """Start a tap in another process and kill it; return the last stage it reached.

    To attach takes a tenth of a second, most of it until the helper that injects the system call runs.
    """
    stage = moments.choice(["attaching", "attaching", "attached", "updated"])
    delay_s = moments.uniform(0, 0.2 if stage == "attaching" else 0.05)
    read_end, write_end = os.pipe()
    with open(read_end, "rb") as output:
        env = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        command: list[str | Path] = [
            sys.executable,
            TAPPER,
            guest.url,
            moments.choice(["hybrid", "hybrid", "log", "compare"]),
        ]
        process = spawn(command, stdout=write_end, env=env)
        os.close(write_end)
        reached = ""
        for line in output:
            reached = line.decode().strip()
            if reached == stage:
                break
        assert reached == stage, f"the tapper ended by itself: {process.wait()}"
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(delay_s)
            pytest.fail(f"the tapper ended by itself: {process.returncode}")
        stop(process)
        # The helper that injects has the other end of the pipe too. Wait until it has ended.
        *_, reached = [stage, *(line.decode().strip() for line in output)]
    return reached


@pytest.mark.stress
async def test_killed_taps_leave_the_guest_unchanged(
    guest: Guest, moments: random.Random, stress: int
) -> None:
    before = descriptors(guest.pid)
    painter = await asyncio.to_thread(guest.spawn, "fbtool draw 1 1")

    def rounds() -> Counter[str]:
        stages: Counter[str] = Counter()
        for number in range(20 if stress == 1 else 100):
            stages[kill_at_a_random_moment(guest, moments)] += 1
            assert guest.run(f"echo {number}") == f"{number}\n"
            assert guest.run(f"test -d /proc/{painter} && echo draws") == "draws\n"
            assert not protections(guest.pid)
            wait_for(guest, lambda: descriptors(guest.pid) == before, "QEMU has no additional descriptor")
        return stages

    stages = await asyncio.to_thread(rounds)
    assert stages["attaching"], "no tapper was killed while it attached"
    assert stages["updated"], "no tapper was killed while it ran"
    await asyncio.to_thread(guest.kill, painter)
    await exact(guest)
    await exact(guest, tracker="compare")


async def test_descriptors_lent_by_killed_taps_are_taken_back(
    guest: Guest, moments: random.Random, stress: int
) -> None:
    """Without a framebuffer vramtap lends QEMU a file for screendumps. QEMU keeps it if vramtap is killed."""
    before = descriptors(guest.pid)

    def rounds() -> None:
        # The palette changes all the time, so that the tapper takes a screendump all the time.
        guest.run("fbtool mode 640 480 8; fbtool noise 1")
        painter = guest.spawn("fbtool draw 1 1")
        for _ in range(5 * stress):
            kill_at_a_random_moment(guest, moments)
            assert not protections(guest.pid)
        guest.kill(painter)

    await asyncio.to_thread(rounds)
    await exact(guest)
    await asyncio.to_thread(
        wait_for, guest, lambda: descriptors(guest.pid) == before, "all descriptors are back"
    )


# QEMU ends


@contextlib.asynccontextmanager
async def tapped(
    guest: Guest, tracker: str = "auto", *, timeouts: MonitorTimeouts = DEFAULT_TIMEOUTS
) -> AsyncIterator[tuple[Tap, ModelClient]]:
    """Tap a guest with a client; the block must not hang."""
    async with (
        asyncio.timeout(2 * HANG_S),
        Tap(QemuTarget(str(guest.qmp_path), timeouts=QemuTimeouts(monitor=timeouts)), tracker) as tap,
        ModelClient(tap) as client,
    ):
        yield tap, client


@pytest.mark.parametrize("tracker", ["hybrid", "log", "compare"])
async def test_a_killed_qemu_ends_the_tap(starting_guest: Guest, tracker: str) -> None:
    async with tapped(starting_guest, tracker) as (tap, client):
        os.kill(starting_guest.pid, signal.SIGKILL)
        gone = await client.ends()
        assert tap.closed == f"QEMU (pid {starting_guest.pid}) exited"
        assert tap.closed in str(gone)
        with pytest.raises(TargetGone, match="exited"):
            await tap.refresh()
        with pytest.raises(TargetGone, match="exited"), tap.viewer("late") as late:
            await late.changed()
        assert [damage async for damage in tap.changes()] == []


async def test_a_quitting_qemu_ends_the_tap(starting_guest: Guest) -> None:
    async with tapped(starting_guest) as (tap, client):
        await asyncio.to_thread(starting_guest.monitor.execute, "quit")
        await client.ends()
        assert tap.closed == f"QEMU (pid {starting_guest.pid}) shut down"


async def test_the_end_of_qemu_is_noticed_without_a_viewer(starting_guest: Guest) -> None:
    async with asyncio.timeout(HANG_S), vramtap.open(starting_guest.url) as tap:
        os.kill(starting_guest.pid, signal.SIGKILL)
        assert await tap.ended() == f"QEMU (pid {starting_guest.pid}) exited"


@pytest.mark.stress
async def test_qemu_killed_at_random_moments_gives_one_error(moments: random.Random, stress: int) -> None:
    """While vramtap attaches, takes the first picture, or runs: one error, at once."""
    for number in range(6 * stress):
        guest = Guest()
        await asyncio.to_thread(guest.start)
        timer = threading.Timer(moments.uniform(0, 0.8), os.kill, (guest.pid, signal.SIGKILL))
        timer.start()
        try:
            with pytest.raises((TargetGone, AttachError)) as caught:
                async with tapped(guest, ("hybrid", "compare", "log")[number % 3]) as (_, client):
                    raise await client.ends()
            assert "\n" not in str(caught.value)
            assert str(caught.value).count(":") >= 1, "the error says what and why"
        finally:
            timer.join()
            await asyncio.to_thread(guest.stop)


# The guest is stopped or reset, or QEMU is stopped


@pytest.mark.stress
async def test_exact_through_stop_and_cont(guest: Guest, moments: random.Random, stress: int) -> None:
    async with tapped(guest) as (tap, client):
        painter = await asyncio.to_thread(guest.spawn, "fbtool draw 2 1")
        for _ in range(10 * stress):
            await _updates(client, moments.randrange(8))
            await asyncio.to_thread(guest.monitor.execute, "stop")
            await client.shows(await asyncio.to_thread(guest.screendump))
            await asyncio.to_thread(guest.monitor.execute, "cont")
        await asyncio.to_thread(guest.kill, painter)
        await client.shows(await asyncio.to_thread(guest.screendump))
        assert tap.closed is None


async def _updates(client: ModelClient, count: int, timeout_s: float = HANG_S) -> None:
    goal = client.updates + count
    await client.until(lambda: client.updates >= goal, timeout_s)


@pytest.mark.stress
async def test_exact_through_resets(starting_guest: Guest, moments: random.Random, stress: int) -> None:
    guest = starting_guest
    async with tapped(guest) as (tap, client):
        for _ in range(3 * stress):
            # The firmware's text ends soon, and a few updates later the kernel draws nothing for a while.
            with contextlib.suppress(TimeoutError):
                await _updates(client, moments.randrange(6), moments.uniform(0, 1))
            await asyncio.to_thread(_reset, guest)
        await asyncio.to_thread(guest.wait_ready)
        await asyncio.to_thread(guest.quiet)
        truth = await asyncio.to_thread(guest.screendump)
        await client.shows(truth)
        await tap.refresh()
        await client.shows(truth)
        assert truth.shape == (768, 1024)
        assert tap.closed is None


def _reset(guest: Guest) -> None:
    """Reset the guest, and drop its earlier output, which may say that it is ready."""
    guest.monitor.execute("stop")
    with contextlib.suppress(TestbedError):
        while True:
            guest.wait_ready(0)
    guest.reset()
    guest.monitor.execute("cont")


@pytest.mark.stress
async def test_exact_through_short_sigstops(guest: Guest, moments: random.Random, stress: int) -> None:
    """SIGSTOP stops all of QEMU, also its monitor. Stops shorter than the command timeout have no effect."""
    async with tapped(guest) as (tap, client):
        painter = await asyncio.to_thread(guest.spawn, "fbtool flip 1000000 1")
        for _ in range(10 * stress):
            await _updates(client, moments.randrange(5))
            with _asleep(guest):
                await asyncio.to_thread(threading.Event().wait, moments.uniform(0, 0.1))
        await asyncio.to_thread(guest.kill, painter)
        await client.shows(await asyncio.to_thread(guest.screendump))
        assert tap.closed is None


@contextlib.contextmanager
def _asleep(guest: Guest) -> Iterator[None]:
    os.kill(guest.pid, signal.SIGSTOP)
    try:
        os.waitid(os.P_PID, guest.pid, os.WSTOPPED | os.WNOWAIT)
        yield
    finally:
        os.kill(guest.pid, signal.SIGCONT)


async def test_a_long_sigstop_is_logged_and_survived(guest: Guest, caplog: pytest.LogCaptureFixture) -> None:
    async with tapped(guest, timeouts=MonitorTimeouts(command_s=1.0)) as (tap, client):
        with _asleep(guest):
            with contextlib.suppress(TimeoutError):
                await client.until(lambda: "SIGSTOP" in caplog.text, timeout_s=10)
            assert "no answer within 1 s (is QEMU stopped by a debugger or SIGSTOP?)" in caplog.text
        # QEMU now answers the commands that timed out, and vramtap must ignore these answers.
        await asyncio.to_thread(guest.run, "fbtool flip 3; fbtool noise 5")
        truth = await asyncio.to_thread(guest.screendump)
        await client.shows(truth)
        await tap.refresh()
        await client.shows(truth)
        assert tap.closed is None


async def test_attach_to_a_qemu_under_sigstop_is_refused(guest: Guest) -> None:
    with _asleep(guest), pytest.raises(Refused, match="no QMP greeting within"):
        async with tapped(guest, timeouts=MonitorTimeouts(connect_s=0.2)):
            pass
    await exact(guest)


# There is no guest to tap


async def refusal(path: Path | str, **timeouts: Any) -> VramtapError:  # noqa: ANN401 - passed on
    """Try to tap the QEMU with this socket; return the error, which must be one line with a remedy."""
    async with asyncio.timeout(HANG_S):
        with pytest.raises(VramtapError) as caught:
            async with Tap(QemuTarget(str(path), timeouts=QemuTimeouts(**timeouts))):
                pass
    message = str(caught.value)
    assert message.startswith(("connect qemu:", "attach qemu:")), message
    assert "\n" not in message
    assert len(message) < 600
    assert caught.value.remedy, f"no remedy: {message}"
    return caught.value


async def test_a_busy_monitor_is_refused(guest: Guest) -> None:
    async with tapped(guest) as (tap, client):
        # The first few wait in the kernel's queue. For the others the queue is full.
        for _ in range(5):
            error = await refusal(guest.qmp_path, monitor=MonitorTimeouts(connect_s=0.3))
            assert isinstance(error, Refused)
            assert "another client holds this monitor" in str(error)
            assert "a second -qmp" in error.remedy
        await asyncio.to_thread(guest.run, "fbtool edges 0xFF00FF")
        await client.shows(await asyncio.to_thread(guest.screendump))
        assert tap.closed is None
    await exact(guest)


async def test_a_missing_socket_is_refused(tmp_path: Path) -> None:
    error = await refusal(tmp_path / "vm.qmp")
    assert isinstance(error, NotFound)
    assert "no such socket" in str(error)
    assert "-qmp unix:PATH" in error.remedy


async def test_a_socket_without_a_listener_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vm.qmp"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    error = await refusal(path)
    assert isinstance(error, NotFound)
    assert "no process listens" in str(error)


async def test_a_path_that_is_not_a_socket_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("QMP")
    for name in ("file", "."):
        error = await refusal(tmp_path / name)
        assert isinstance(error, NotTappable)
        assert "not a socket" in str(error)


async def test_a_datagram_socket_and_a_long_path_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "datagrams"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(str(path))
        assert "wrong type" in str(await refusal(path))
    assert "too long" in str(await refusal(f"/{'x' * 120}"))


GREETING = b'{"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}}, "capabilities": []}}\r\n'
STRANGERS = {
    "hangs up": b"",
    "speaks SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "speaks RFB": b"RFB 003.008\n",
    "other JSON": b'{"hello": [1, 2, {"world": null}]}\n',
    "no object": b"[1]\n",
    "half a greeting": GREETING[:30],
    "a greeting of the wrong shape": b'{"QMP": 5}\n',
    "a greeting and then noise": GREETING + bytes(range(256)) + b"\n",
    "zeros": bytes(1000) + b"\n",
    "deep nesting": b"[" * 100_000 + b"\n",
    "a giant line": b"x" * (11 << 20) + b"\n",
    "a giant string": b'{"QMP": "' + b"x" * (9 << 20) + b'"}\n',
    "a giant error": GREETING
    + b'{"id": null, "error": {"class": "x", "desc": "'
    + b"y" * (1 << 20)
    + b'"}}\n',
}


@pytest.mark.parametrize("greeting", STRANGERS.values(), ids=list(STRANGERS))
async def test_a_server_that_does_not_speak_qmp_is_refused(tmp_path: Path, greeting: bytes) -> None:
    path = tmp_path / "stranger"
    ended = asyncio.Event()

    async def stranger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            writer.write(greeting)
            await writer.drain()
        writer.close()
        ended.set()

    async with await asyncio.start_unix_server(stranger, path):
        error = await refusal(path)
        assert isinstance(error, Refused)
        assert "no QMP" in str(error)
        assert "-qmp socket" in error.remedy
        await ended.wait()


async def test_a_silent_server_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "silent"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        error = await refusal(path, monitor=MonitorTimeouts(connect_s=0.3))
        assert isinstance(error, Refused)
        assert "no QMP greeting within 0.3 s" in str(error)


@pytest.mark.parametrize(
    ("vga", "expected"),
    [("virtio", "virtio-gpu"), ("cirrus", "Cirrus"), ("none", "no PCI display device"), ("vmware", "VMware")],
)
async def test_a_display_without_a_linear_framebuffer_is_refused(vga: str, expected: str) -> None:
    guest = Guest(vga=vga, video_mode="normal")
    await asyncio.to_thread(guest.start)
    try:
        error = await refusal(guest.qmp_path)
        assert isinstance(error, NotTappable)
        assert expected in str(error)
        assert error.remedy == "start QEMU with -vga std"
    finally:
        await asyncio.to_thread(guest.stop)


async def test_a_guest_that_was_never_started_is_refused() -> None:
    guest = Guest(("-S",))
    await asyncio.to_thread(guest.start)
    try:
        error = await refusal(guest.qmp_path, place_s=0.5)
        assert "video RAM not found within 0.5 s" in str(error)
        assert error.remedy == "is the guest running?"
    finally:
        await asyncio.to_thread(guest.stop)
