"""A monitor shared with libxl: everybody comes to pass, one at a time, whatever becomes of the others."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support import fake_libxl
from support.fake_qmp import LoneQmp, Refusal
from support.testbed.supervise import spawn, stop
from vramtap.errors import NotFound, Refused, TargetGone, TimedOut, VramtapError
from vramtap.linux.flock import LockFile
from vramtap.targets.qemu import qmp
from vramtap.targets.xen import libxl_qmp
from vramtap.targets.xen.libxl_qmp import LibxlMonitor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

HANG_S = 60
"""After which a test has hung."""
LONG_S = 1000.0


@dataclass(frozen=True)
class Place:
    """Where a domain's socket and lock file are."""

    socket: Path
    lock: Path

    def monitor(self) -> LibxlMonitor:
        return LibxlMonitor(str(self.socket), str(self.lock), "xen:7")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "qmp-libxl-7", tmp_path / "userdata-l.7.qmp-socket-lock")


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions last until they are ended."""
    monkeypatch.setattr(libxl_qmp, "HOLD_S", LONG_S)
    monkeypatch.setattr(libxl_qmp, "LINGER_S", LONG_S)


def echo(command: str, arguments: dict[str, Any]) -> object:
    return [command, arguments]


@contextlib.asynccontextmanager
async def closing(*monitors: LibxlMonitor) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(HANG_S):
            yield
    finally:
        for monitor in monitors:
            await monitor.close()


@contextlib.contextmanager
def libxl(*arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, fake_libxl.__file__, *map(str, arguments)]
    process = spawn(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        stop(process)


def line(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    return process.stdout.readline()


def unlocked(place: Place) -> None:
    """Nobody holds the lock."""
    lock = LockFile.take(str(place.lock))
    assert lock is not None
    lock.release()


async def hammer(monitor: LibxlMonitor, name: str, enough: Callable[[int], bool]) -> int:
    """Run commands one after the other; returns how many."""
    number = 0
    while not enough(number):
        arguments = {"name": f"{name} {number}"}
        assert await monitor.execute("echo", arguments) == ["echo", arguments]
        number += 1
    return number


# Sessions


async def test_nothing_is_held_until_there_is_a_command_and_after_the_last(place: Place) -> None:
    monitor = place.monitor()
    with LoneQmp(place.socket, echo) as server:
        async with closing(monitor):
            assert not place.lock.exists()
            for _ in range(2):
                came = server.came
                assert await monitor.execute("stop") == ["stop", {}]
                assert server.came == came + 1
                await server.until(lambda: server.left == server.came)
                assert not monitor.connected
                unlocked(place)
                assert not place.lock.exists()
            assert monitor.sessions == 2


async def test_an_answer_is_that_of_its_command(place: Place, patient: None) -> None:
    monitor = place.monitor()
    with LoneQmp(place.socket, echo) as server:
        async with closing(monitor):
            await asyncio.gather(*(hammer(monitor, f"task {n}", lambda done: done == 20) for n in range(10)))
            assert await monitor.hmp("xp /11hx 0xf0000500") == str(
                ["human-monitor-command", {"command-line": "xp /11hx 0xf0000500"}]
            )
            assert place.lock.exists()
            assert LockFile.take(str(place.lock)) is None
        assert monitor.sessions == 1
        await server.until(lambda: server.left == 1)
        assert not place.lock.exists()


async def test_a_session_ends_even_if_commands_keep_coming(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libxl_qmp, "HOLD_S", 0.0)
    monkeypatch.setattr(libxl_qmp, "LINGER_S", LONG_S)
    monitor = place.monitor()
    with LoneQmp(place.socket, echo) as server:
        async with closing(monitor):
            for number in range(1, 6):
                await monitor.execute("stop")
                assert monitor.sessions == number
                assert not monitor.connected
            await server.until(lambda: server.left == 5)
        assert server.waited == 0


async def test_a_session_ends_while_nobody_says_so(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libxl_qmp, "LINGER_S", LONG_S)
    monitor = place.monitor()
    with LoneQmp(place.socket, echo) as server:
        async with closing(monitor):
            await monitor.execute("stop")
            await server.until(lambda: server.left == 1)
            unlocked(place)


async def test_a_descriptor_is_lent_over_one_connection(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(libxl_qmp, "HOLD_S", 0.0)
    monitor = place.monitor()
    with LoneQmp(place.socket, echo) as server, (tmp_path / "lent").open("wb") as file:
        async with closing(monitor):
            async with monitor.batch() as commands:
                await commands.add_fd(file.fileno(), 70000)
                filename = {"filename": "/dev/fdset/70000"}
                assert await commands.execute("screendump", filename) == ["screendump", filename]
                await commands.remove_fd(70000)
            assert server.came == 1
            assert not monitor.connected


# Others who want it


async def test_libxl_comes_to_pass_while_we_have_much_to_say(place: Place) -> None:
    monitor = place.monitor()
    with LoneQmp(place.socket, echo) as server, libxl(place.socket, place.lock, 30) as other:
        async with closing(monitor):
            said = await asyncio.gather(
                *(hammer(monitor, f"task {n}", lambda done: other.poll() is not None) for n in range(3))
            )
        assert other.returncode == 0
        assert min(said) > 0
        assert server.came == 30 + monitor.sessions
        assert server.waited == 0
    unlocked(place)


async def test_libxl_gets_the_very_file_it_waits_for(place: Place, patient: None) -> None:
    """So that it need not begin anew, when we might be quicker."""
    monitor = place.monitor()
    with LoneQmp(place.socket, echo):
        async with closing(monitor):
            await monitor.execute("stop")
            # Open: or its number could be given to another file.
            with place.lock.open() as file, libxl("hold", place.lock) as other:
                await asyncio.to_thread(_waits, other.pid)
                await monitor.close()
                assert line(other) == b"HELD\n"
                assert os.path.samestat(os.fstat(file.fileno()), place.lock.stat())


def _waits(pid: int) -> None:
    """Return when a process waits for a lock."""
    while not any("->" in held and str(pid) in held.split() for held in _locks()):
        assert Path(f"/proc/{pid}").exists()


def _locks() -> list[str]:
    return Path("/proc/locks").read_text().splitlines()


async def test_we_come_to_pass_while_libxl_has_much_to_say(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Far more than it ever has: here it does nothing else, and its wait is the one that is woken."""
    monkeypatch.setattr(libxl_qmp, "LOCK_TIMEOUT_S", LONG_S)
    monitor = place.monitor()
    with LoneQmp(place.socket, echo) as server, libxl(place.socket, place.lock, 0) as other:
        assert line(other) == b"0\n"
        async with closing(monitor):

            def reached(goal: int, done: int) -> bool:
                return done > 0 and monitor.sessions >= goal

            async def read() -> None:
                while await asyncio.to_thread(line, other):
                    pass

            reading = asyncio.create_task(read())
            try:
                for goal in range(1, 4):
                    await hammer(monitor, "we", partial(reached, goal))
            finally:
                other.kill()
                await reading
        assert server.waited == 0


async def test_two_taps_of_one_domain(place: Place) -> None:
    monitors = [place.monitor() for _ in range(2)]
    with LoneQmp(place.socket, echo) as server:
        async with closing(*monitors):

            def enough(done: int) -> bool:
                return all(monitor.sessions >= 5 for monitor in monitors)

            said = await asyncio.gather(*(hammer(each, f"{each}", enough) for each in monitors))
        assert min(said) > 0
        assert server.waited == 0


async def test_a_holder_that_is_killed(place: Place) -> None:
    monitor = place.monitor()
    with LoneQmp(place.socket, echo), libxl("hold", place.lock) as other:
        assert line(other) == b"HELD\n"
        async with closing(monitor):
            asking = asyncio.create_task(monitor.execute("stop"))
            assert not await asyncio.to_thread(_never, place, asking)
            other.kill()
            assert await asking == ["stop", {}]


def _never(place: Place, asking: asyncio.Task[object]) -> bool:
    """Whether the command was run although another holds the lock; looks for as long as some tries take."""
    return any(asking.done() or LockFile.take(str(place.lock)) is not None for _ in range(1000))


async def test_a_holder_that_never_lets_go(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libxl_qmp, "LOCK_TIMEOUT_S", 0.1)
    monitor = place.monitor()
    with LoneQmp(place.socket, echo) as server, libxl("hold", place.lock) as other:
        assert line(other) == b"HELD\n"
        async with closing(monitor):
            with pytest.raises(TimedOut, match=rf"lock \S+: pid {other.pid} \(.+\) holds .+ \(see .+\)"):
                await monitor.execute("stop")
            stop(other)
            assert await monitor.execute("stop") == ["stop", {}]
        assert server.came == 1


# What may be wrong with QEMU


async def test_a_device_model_that_has_ended(place: Place) -> None:
    monitor = place.monitor()
    async with closing(monitor):
        with pytest.raises(TargetGone, match="connect xen:7: the device model has ended"):
            await monitor.execute("stop")
        with LoneQmp(place.socket, echo):
            await monitor.execute("stop")
            assert monitor.connected
        with pytest.raises(TargetGone):
            await monitor.execute("stop")
        with pytest.raises(TargetGone, match="connect xen:7: the device model has ended"):
            await monitor.execute("stop")
        assert not place.lock.exists()


async def test_a_device_model_that_ends_as_we_come(place: Place) -> None:
    """It accepts the connection, and is gone before it greets."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    monitor = place.monitor()
    async with closing(monitor), await asyncio.start_unix_server(hang_up, place.socket):
        with pytest.raises(TargetGone, match="connect xen:7: the device model has ended"):
            await monitor.execute("stop")
    unlocked(place)


async def test_a_device_model_that_ends_during_a_command(place: Place) -> None:
    monitor = place.monitor()
    with LoneQmp(place.socket, lambda command, arguments: None):
        async with closing(monitor):
            with pytest.raises(TargetGone, match="stop xen:7: the monitor connection ended"):
                await monitor.execute("stop")
            assert not monitor.connected
    unlocked(place)


async def test_a_device_model_that_never_greets(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qmp, "CONNECT_TIMEOUT_S", 0.1)
    monitor = place.monitor()
    with LoneQmp(place.socket, echo, greets=False) as server:
        async with closing(monitor):
            with pytest.raises(
                Refused, match=r"connect xen:7: no QMP greeting .+ does not heed \S+lock \(end"
            ):
                await monitor.execute("stop")
            unlocked(place)
            await server.until(lambda: server.left == 1)


async def test_what_is_refused_ends_no_session(place: Place, patient: None) -> None:
    def answer(command: str, arguments: dict[str, Any]) -> object:
        return Refusal("what?") if command == "nonsense" else [command, arguments]

    monitor = place.monitor()
    with LoneQmp(place.socket, answer):
        async with closing(monitor):
            for _ in range(3):
                await monitor.execute("stop")
                with pytest.raises(VramtapError, match=r"nonsense xen:7: what\?"):
                    await monitor.execute("nonsense")
            assert monitor.sessions == 1
            assert monitor.connected


async def test_an_answer_that_comes_too_late_is_nobodys(
    place: Place, patient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qmp, "COMMAND_TIMEOUT_S", 0.1)
    monitor = place.monitor()
    with LoneQmp(place.socket, lambda command, arguments: b"" if command == "wait" else [command]):
        async with closing(monitor):
            with pytest.raises(TimedOut, match="wait xen:7: no answer within"):
                await monitor.execute("wait")
            assert not monitor.connected
            assert await monitor.execute("stop") == ["stop"]
            assert monitor.sessions == 2


async def test_no_permission() -> None:
    monitor = LibxlMonitor("/nowhere/qmp", "/sys/kernel/lock")
    with pytest.raises(Refused, match=r"lock /sys/kernel/lock: permission denied \(run as root in dom0\)"):
        await monitor.execute("stop")


async def test_no_xen_here(tmp_path: Path) -> None:
    monitor = LibxlMonitor("/nowhere/qmp", str(tmp_path / "xen" / "lock"))
    with pytest.raises(NotFound, match="no such directory"):
        await monitor.execute("stop")


# The end


async def test_a_command_that_is_cancelled_ends_the_session(place: Place, patient: None) -> None:
    """Its answer may still come, and QEMU may still be at it."""
    monitor = place.monitor()
    with LoneQmp(place.socket, lambda command, arguments: b"") as server:
        async with closing(monitor):
            asking = asyncio.create_task(monitor.execute("stop"))
            await server.until(lambda: server.asked == 1)
            asking.cancel()
            await asyncio.wait([asking])
            assert asking.cancelled()
            await server.until(lambda: server.left == 1)
            unlocked(place)


async def test_cancelled_at_any_moment(place: Place) -> None:
    monitor, done = place.monitor(), 0
    with LoneQmp(place.socket, echo) as server:
        async with closing(monitor):
            for rounds in range(60):
                asking = asyncio.create_task(monitor.execute("stop"))
                for _ in range(rounds):
                    await asyncio.sleep(0)
                asking.cancel()
                if rounds % 2:
                    await asyncio.sleep(0)
                    asking.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    done += await asking == ["stop", {}]
                arguments = {"round": rounds}
                assert await monitor.execute("echo", arguments) == ["echo", arguments]
        await server.until(lambda: server.left == server.came)
        assert server.waited == 0
        assert not place.lock.exists()


async def test_closed_is_closed(place: Place, patient: None) -> None:
    monitor = place.monitor()
    with LoneQmp(place.socket, echo) as server:
        async with closing(monitor):
            await monitor.execute("stop")
            await monitor.close()
            assert not monitor.connected
            unlocked(place)
            await server.until(lambda: server.left == 1)
            await monitor.close()
            with pytest.raises(TargetGone, match="xen:7: this monitor was closed"):
                await monitor.execute("stop")
        assert server.came == 1


async def test_closed_during_a_command(place: Place) -> None:
    monitor = place.monitor()
    with LoneQmp(place.socket, lambda command, arguments: b"") as server:
        async with closing(monitor):
            asking = asyncio.create_task(monitor.execute("stop"))
            await server.until(lambda: server.asked == 1)
            await monitor.close()
            with pytest.raises(TargetGone):
                await asking
    unlocked(place)


async def test_closed_while_it_connects(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qmp, "CONNECT_TIMEOUT_S", LONG_S)
    monitor = place.monitor()
    with LoneQmp(place.socket, echo, greets=False) as server:
        async with closing(monitor):
            asking = asyncio.create_task(monitor.execute("stop"))
            await server.until(lambda: server.came == 1)
            await monitor.close()
            with pytest.raises(TargetGone):
                await asking
            await server.until(lambda: server.left == 1)
    unlocked(place)


async def test_closed_while_it_waits(place: Place) -> None:
    monitor = place.monitor()
    held = LockFile.take(str(place.lock))
    assert held is not None
    async with closing(monitor):
        asking = asyncio.create_task(monitor.execute("stop"))
        await asyncio.sleep(0)
        await monitor.close()
        with pytest.raises(TargetGone):
            await asking
    held.release()


KILLED = """
import asyncio, sys
from vramtap.targets.xen import libxl_qmp

async def talk():
    libxl_qmp.HOLD_S = libxl_qmp.LINGER_S = 1000
    monitor = libxl_qmp.LibxlMonitor(*sys.argv[1:])
    await monitor.execute("stop")
    print("HELD", flush=True)
    await asyncio.Event().wait()

asyncio.run(talk())
"""


async def test_we_are_killed(place: Place) -> None:
    """The file is left, which stops nobody, and nothing else."""
    with LoneQmp(place.socket, echo) as server:
        env = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        process = spawn(
            [sys.executable, "-c", KILLED, place.socket, place.lock], stdout=subprocess.PIPE, env=env
        )
        try:
            assert await asyncio.to_thread(line, process) == b"HELD\n"
            assert LockFile.take(str(place.lock)) is None
        finally:
            stop(process)
        await server.until(lambda: server.left == 1)
        assert place.lock.exists()
        with libxl(place.socket, place.lock, 1) as other:
            assert await asyncio.to_thread(line, other) == b"0\n"
            assert await asyncio.to_thread(other.wait) == 0
        assert not place.lock.exists()
