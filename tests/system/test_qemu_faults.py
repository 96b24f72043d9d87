"""What may go wrong while a guest is tapped, at any moment: to us, to QEMU, to the way between."""

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
from typing import TYPE_CHECKING

import pytest

import vramtap
from support.model_client import ModelClient
from support.testbed.errors import LabError
from support.testbed.guest import Guest
from support.testbed.supervise import spawn, stop
from vramtap.errors import AttachError, NotFound, NotTappable, Refused, TargetGone, VramtapError
from vramtap.linux.procfs import vm_flags
from vramtap.targets.qemu import qmp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from vramtap.tap.tap import Tap

TAPPER = Path(__file__).with_name("tapper.py")
HANG_S = 60.0
"""What takes longer hangs."""


@pytest.fixture(autouse=True)
def no_traceback(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever goes wrong here is said in a line."""
    caplog.set_level(logging.INFO, "vramtap")
    yield
    gc.collect()  # asyncio complains about a task's exception when the task is freed
    records = caplog.get_records("call") + caplog.get_records("teardown")
    loud = [r for r in records if r.exc_info or r.levelno >= logging.ERROR]
    assert not loud, [r.getMessage() for r in loud]


@pytest.fixture
def moments(storm: int) -> random.Random:
    """A source of random moments, whose seed stands in the report of a test that fails."""
    seed = random.SystemRandom().randrange(1 << 32) if storm > 1 else 20
    print(f"seed {seed}")
    return random.Random(seed)


@pytest.fixture
def starting_guest() -> Iterator[Guest]:
    """A guest that has just been switched on."""
    guest = Guest()
    guest.start()
    yield guest
    guest.stop()


def protections(pid: int) -> list[str]:
    """Mappings that a userfaultfd has hold of."""
    return [str(mapping) for mapping, flags in vm_flags(pid) if "uw" in flags]


def descriptors(pid: int) -> Counter[str]:
    """How many of each kind a process has."""
    kinds: Counter[str] = Counter()
    for entry in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            kinds[os.readlink(f"/proc/{pid}/fd/{entry}").partition(":[")[0]] += 1
    return kinds


def wait_for(guest: Guest, happened: Callable[[], bool], what: str) -> None:
    """Wait until something is so, while QEMU's main loop goes round."""
    for _ in range(10_000):
        if happened():
            return
        guest.monitor.execute("query-status")
    pytest.fail(f"not after 10,000 rounds of QEMU's main loop: {what}")


async def exact(guest: Guest, url: str | None = None, tracker: str = "auto") -> None:
    """A new tap works and shows what the guest shows."""
    async with (
        asyncio.timeout(HANG_S),
        vramtap.open(url or guest.url, tracker=tracker) as tap,
        ModelClient(tap) as client,
    ):
        await asyncio.to_thread(guest.run, "fbtool storm 1 1000")
        await client.shows(await asyncio.to_thread(guest.screendump))


# We are killed


def kill_at_a_random_moment(guest: Guest, moments: random.Random) -> str:
    """Start a tap in a process of its own and kill it; returns how far it had come.

    Attaching takes a tenth of a second, most of it until the helper that injects the system call runs.
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
        tapper = spawn(command, stdout=write_end, env=env)
        os.close(write_end)
        came = ""
        for line in output:
            came = line.decode().strip()
            if came == stage:
                break
        assert came == stage, f"the tapper ended by itself: {tapper.wait()}"
        with contextlib.suppress(subprocess.TimeoutExpired):
            tapper.wait(delay_s)
            pytest.fail(f"the tapper ended by itself: {tapper.returncode}")
        stop(tapper)
        # The helper that injects holds the other end too, and is to finish.
        *_, came = [stage, *(line.decode().strip() for line in output)]
    return came


@pytest.mark.storm
async def test_we_are_killed_while_the_guest_draws(guest: Guest, moments: random.Random, storm: int) -> None:
    before = descriptors(guest.pid)
    painter = await asyncio.to_thread(guest.spawn, "fbtool draw 1 1")

    def rounds() -> Counter[str]:
        came: Counter[str] = Counter()
        for number in range(20 if storm == 1 else 100):
            came[kill_at_a_random_moment(guest, moments)] += 1
            assert guest.run(f"echo {number}") == f"{number}\n"
            assert guest.run(f"test -d /proc/{painter} && echo draws") == "draws\n"
            assert not protections(guest.pid)
            wait_for(guest, lambda: descriptors(guest.pid) == before, "no descriptor more in QEMU")
        return came

    came = await asyncio.to_thread(rounds)
    assert came["attaching"], "none was killed while it attached"
    assert came["updated"], "none was killed while it ran"
    await asyncio.to_thread(guest.kill, painter)
    await exact(guest)
    await exact(guest, tracker="compare")


async def test_what_we_lent_qemu_when_we_were_killed_is_taken_back(
    guest: Guest, moments: random.Random, storm: int
) -> None:
    """Without a framebuffer QEMU is lent a file to dump the screen to, and keeps it if we are killed."""
    before = descriptors(guest.pid)

    def rounds() -> None:
        # The screen's own palette changes, so that the tapper has something to dump all the time.
        guest.run("fbtool mode 640 480 8; fbtool noise 1")
        painter = guest.spawn("fbtool draw 1 1")
        for _ in range(5 * storm):
            kill_at_a_random_moment(guest, moments)
            assert not protections(guest.pid)
        guest.kill(painter)

    await asyncio.to_thread(rounds)
    await exact(guest)
    await asyncio.to_thread(wait_for, guest, lambda: descriptors(guest.pid) == before, "all is taken back")


# QEMU ends


@contextlib.asynccontextmanager
async def tapped(guest: Guest, tracker: str = "auto") -> AsyncIterator[tuple[Tap, ModelClient]]:
    """A tap with a client; nothing in the block takes for ever."""
    async with (
        asyncio.timeout(2 * HANG_S),
        vramtap.open(guest.url, tracker=tracker) as tap,
        ModelClient(tap) as client,
    ):
        yield tap, client


@pytest.mark.parametrize("tracker", ["hybrid", "log", "compare"])
async def test_qemu_is_killed(starting_guest: Guest, tracker: str) -> None:
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


async def test_qemu_quits(starting_guest: Guest) -> None:
    async with tapped(starting_guest) as (tap, client):
        await asyncio.to_thread(starting_guest.monitor.execute, "quit")
        await client.ends()
        assert tap.closed == f"QEMU (pid {starting_guest.pid}) shut down"


async def test_nobody_looks_when_qemu_ends(starting_guest: Guest) -> None:
    async with asyncio.timeout(HANG_S), vramtap.open(starting_guest.url) as tap:
        os.kill(starting_guest.pid, signal.SIGKILL)
        assert await tap.ended() == f"QEMU (pid {starting_guest.pid}) exited"


@pytest.mark.storm
async def test_qemu_is_killed_at_random_moments(moments: random.Random, storm: int) -> None:
    """Attaching, taking the first picture, or running: it is said, at once, and once."""
    for number in range(6 * storm):
        guest = Guest()
        await asyncio.to_thread(guest.start)
        timer = threading.Timer(moments.uniform(0, 0.8), os.kill, (guest.pid, signal.SIGKILL))
        timer.start()
        try:
            with pytest.raises((TargetGone, AttachError)) as caught:
                async with tapped(guest, ("hybrid", "compare", "log")[number % 3]) as (_, client):
                    raise await client.ends()
            assert "\n" not in str(caught.value)
            assert str(caught.value).count(":") >= 1, "what, and why"
        finally:
            timer.join()
            await asyncio.to_thread(guest.stop)


# The guest is stopped, reset, or out of our hands for a while


@pytest.mark.storm
async def test_stop_and_cont_at_random_moments(guest: Guest, moments: random.Random, storm: int) -> None:
    async with tapped(guest) as (tap, client):
        painter = await asyncio.to_thread(guest.spawn, "fbtool draw 2 1")
        for _ in range(10 * storm):
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


@pytest.mark.storm
async def test_reset_at_random_moments(starting_guest: Guest, moments: random.Random, storm: int) -> None:
    guest = starting_guest
    async with tapped(guest) as (tap, client):
        for _ in range(3 * storm):
            # Text is over soon, and a few updates later the kernel works in silence for a while.
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
    """Reset it, and forget what it said before: it may have come up."""
    guest.monitor.execute("stop")
    with contextlib.suppress(LabError):
        while True:
            guest.wait_ready(0)
    guest.reset()
    guest.monitor.execute("cont")


@pytest.mark.storm
async def test_qemu_sleeps_at_random_moments(guest: Guest, moments: random.Random, storm: int) -> None:
    """SIGSTOP holds all of QEMU, its monitor too; waits shorter than a command's limit go unnoticed."""
    async with tapped(guest) as (tap, client):
        painter = await asyncio.to_thread(guest.spawn, "fbtool flip 1000000 1")
        for _ in range(10 * storm):
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


async def test_qemu_sleeps_longer_than_we_wait(
    guest: Guest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(qmp, "COMMAND_TIMEOUT_S", 0.2)
    async with tapped(guest) as (tap, client):
        with _asleep(guest):
            with contextlib.suppress(TimeoutError):
                await client.until(lambda: "SIGSTOP" in caplog.text, timeout_s=2)
            assert "no answer within 0.2 s (is QEMU stopped by a debugger or SIGSTOP?)" in caplog.text
        # What QEMU answers late to commands that were given up confuses nobody.
        monkeypatch.undo()
        await asyncio.to_thread(guest.run, "fbtool flip 3; fbtool noise 5")
        truth = await asyncio.to_thread(guest.screendump)
        await client.shows(truth)
        await tap.refresh()
        await client.shows(truth)
        assert tap.closed is None


async def test_attaching_to_a_qemu_that_sleeps(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qmp, "CONNECT_TIMEOUT_S", 0.2)
    with _asleep(guest), pytest.raises(Refused, match="no QMP greeting within"):
        async with tapped(guest):
            pass
    monkeypatch.undo()
    await exact(guest)


# There is nothing to tap


async def refusal(url: str) -> VramtapError:
    """What an attempt to tap it says, in a line."""
    async with asyncio.timeout(HANG_S):
        with pytest.raises(VramtapError) as caught:
            async with vramtap.open(url):
                pass
    said = str(caught.value)
    assert said.startswith(("connect qemu:", "attach qemu:")), said
    assert "\n" not in said
    assert len(said) < 600
    assert caught.value.remedy, f"what to do is not said: {said}"
    return caught.value


async def test_a_monitor_has_one_client(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    async with tapped(guest) as (tap, client):
        monkeypatch.setattr(qmp, "CONNECT_TIMEOUT_S", 0.3)
        # The first few wait in the kernel's queue, the others are not even let into it.
        for _ in range(5):
            error = await refusal(guest.url)
            assert isinstance(error, Refused)
            assert "another client holds this monitor" in str(error)
            assert "a second -qmp" in error.remedy
        await asyncio.to_thread(guest.run, "fbtool edges 0xFF00FF")
        await client.shows(await asyncio.to_thread(guest.screendump))
        assert tap.closed is None
    monkeypatch.undo()
    await exact(guest)


async def test_no_such_socket(tmp_path: Path) -> None:
    error = await refusal(f"qemu:{tmp_path}/vm.qmp")
    assert isinstance(error, NotFound)
    assert "no such socket" in str(error)
    assert "-qmp unix:PATH" in error.remedy


async def test_a_socket_that_nobody_listens_on(tmp_path: Path) -> None:
    path = tmp_path / "vm.qmp"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    error = await refusal(f"qemu:{path}")
    assert isinstance(error, NotFound)
    assert "nobody listens" in str(error)


async def test_what_is_no_socket(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("QMP")
    for name in ("file", "."):
        error = await refusal(f"qemu:{tmp_path}/{name}")
        assert isinstance(error, NotTappable)
        assert "no socket" in str(error)


async def test_a_socket_of_another_kind_and_a_path_that_is_too_long(tmp_path: Path) -> None:
    path = tmp_path / "datagrams"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(str(path))
        assert "wrong type" in str(await refusal(f"qemu:{path}"))
    assert "too long" in str(await refusal(f"qemu:/{'x' * 120}"))


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


@pytest.mark.parametrize("says", STRANGERS.values(), ids=list(STRANGERS))
async def test_a_server_that_is_no_qmp(tmp_path: Path, says: bytes) -> None:
    path = tmp_path / "stranger"
    ended = asyncio.Event()

    async def stranger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            writer.write(says)
            await writer.drain()
        writer.close()
        ended.set()

    async with await asyncio.start_unix_server(stranger, path):
        error = await refusal(f"qemu:{path}")
        assert isinstance(error, Refused)
        assert "no QMP" in str(error)
        assert "-qmp socket" in error.remedy
        await ended.wait()


async def test_a_server_that_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qmp, "CONNECT_TIMEOUT_S", 0.3)
    path = tmp_path / "silent"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        error = await refusal(f"qemu:{path}")
        assert isinstance(error, Refused)
        assert "no QMP greeting within 0.3 s" in str(error)


@pytest.mark.parametrize(
    ("vga", "says"),
    [("virtio", "virtio-gpu"), ("cirrus", "Cirrus"), ("none", "no PCI display device"), ("vmware", "VMware")],
)
async def test_a_display_that_is_no_linear_framebuffer(vga: str, says: str) -> None:
    guest = Guest(vga=vga, video_mode="normal")
    await asyncio.to_thread(guest.start)
    try:
        error = await refusal(guest.url)
        assert isinstance(error, NotTappable)
        assert says in str(error)
        assert error.remedy == "start QEMU with -vga std"
    finally:
        await asyncio.to_thread(guest.stop)


async def test_a_guest_that_was_never_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vramtap.targets.qemu.target.PLACE_TIMEOUT_S", 0.5)
    guest = Guest(("-S",))
    await asyncio.to_thread(guest.start)
    try:
        error = await refusal(guest.url)
        assert "video RAM not found within 0.5 s" in str(error)
        assert error.remedy == "is the guest running?"
    finally:
        await asyncio.to_thread(guest.stop)
