"""A monitor shared with libxl when QEMU, the lock or vramtap itself fails."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from support.fake_qmp import LoneQmp, Refusal
from support.libxl_monitor import LONG_S, LONG_SESSIONS, Place, closing, echo, libxl, line
from support.testbed.supervise import spawn, stop
from vramtap.errors import NotFound, Refused, TargetGone, TimedOut, VramtapError
from vramtap.linux.flock import LockFile
from vramtap.targets.qemu.qmp import MonitorTimeouts
from vramtap.targets.xen.libxl_qmp import LibxlMonitor

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place.in_directory(tmp_path)


# What may be wrong with QEMU


async def test_a_device_model_that_has_ended_raises_target_gone(place: Place) -> None:
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


async def test_a_device_model_that_ends_while_vramtap_connects(place: Place) -> None:
    """It accepts the connection, and ends before it greets."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    monitor = place.monitor()
    async with closing(monitor), await asyncio.start_unix_server(hang_up, place.socket):
        with pytest.raises(TargetGone, match="connect xen:7: the device model has ended"):
            await monitor.execute("stop")
    place.assert_unlocked()


async def test_a_device_model_that_ends_during_a_command_ends_the_session(place: Place) -> None:
    monitor = place.monitor()
    with LoneQmp(place.socket, lambda command, arguments: None):
        async with closing(monitor):
            with pytest.raises(TargetGone, match="stop xen:7: the monitor connection ended"):
                await monitor.execute("stop")
            assert not monitor.connected
    place.assert_unlocked()


async def test_a_device_model_that_never_greets_is_refused_and_unlocked(place: Place) -> None:
    monitor = place.monitor(timeouts=MonitorTimeouts(connect_s=0.1))
    with LoneQmp(place.socket, echo, greets=False) as server:
        async with closing(monitor):
            with pytest.raises(Refused, match=r"connect xen:7: no QMP greeting .+ ignores \S+lock \(end"):
                await monitor.execute("stop")
            place.assert_unlocked()
            await server.until(lambda: server.left == 1)


async def test_a_refused_command_does_not_end_the_session(place: Place) -> None:
    def answer(command: str, arguments: dict[str, Any]) -> object:
        return Refusal("what?") if command == "nonsense" else [command, arguments]

    monitor = place.monitor(timings=LONG_SESSIONS)
    with LoneQmp(place.socket, answer):
        async with closing(monitor):
            for _ in range(3):
                await monitor.execute("stop")
                with pytest.raises(VramtapError, match=r"nonsense xen:7: what\?"):
                    await monitor.execute("nonsense")
            assert monitor.sessions == 1
            assert monitor.connected


async def test_a_timed_out_command_ends_the_session(place: Place) -> None:
    monitor = place.monitor(timings=LONG_SESSIONS, timeouts=MonitorTimeouts(command_s=0.1))
    with LoneQmp(place.socket, lambda command, arguments: b"" if command == "wait" else [command]):
        async with closing(monitor):
            with pytest.raises(TimedOut, match="wait xen:7: no answer within"):
                await monitor.execute("wait")
            assert not monitor.connected
            assert await monitor.execute("stop") == ["stop"]
            assert monitor.sessions == 2


async def test_a_lock_without_permission_is_refused() -> None:
    monitor = LibxlMonitor("/nowhere/qmp", "/sys/kernel/lock")
    with pytest.raises(Refused, match=r"lock /sys/kernel/lock: permission denied \(run as root in dom0\)"):
        await monitor.execute("stop")


async def test_a_missing_lock_directory_is_reported(tmp_path: Path) -> None:
    monitor = LibxlMonitor("/nowhere/qmp", str(tmp_path / "xen" / "lock"))
    with pytest.raises(NotFound, match="no such directory"):
        await monitor.execute("stop")


# Cancelled, closed, killed


async def test_a_cancelled_command_ends_the_session(place: Place) -> None:
    """Its answer may still come, and QEMU may still be running it."""
    monitor = place.monitor(timings=LONG_SESSIONS)
    with LoneQmp(place.socket, lambda command, arguments: b"") as server:
        async with closing(monitor):
            asking = asyncio.create_task(monitor.execute("stop"))
            await server.until(lambda: server.commands == 1)
            asking.cancel()
            await asyncio.wait([asking])
            assert asking.cancelled()
            await server.until(lambda: server.left == 1)
            place.assert_unlocked()


async def test_cancellation_at_any_moment_leaves_the_monitor_usable(place: Place) -> None:
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
        await server.until(lambda: server.left == server.accepted)
        assert server.waited == 0
        assert not place.lock.exists()


async def test_close_ends_the_session_and_allows_no_other(place: Place) -> None:
    monitor = place.monitor(timings=LONG_SESSIONS)
    with LoneQmp(place.socket, echo) as server:
        async with closing(monitor):
            await monitor.execute("stop")
            await monitor.close()
            assert not monitor.connected
            place.assert_unlocked()
            await server.until(lambda: server.left == 1)
            await monitor.close()
            with pytest.raises(TargetGone, match="xen:7: this monitor was closed"):
                await monitor.execute("stop")
        assert server.accepted == 1


async def test_close_ends_a_running_command(place: Place) -> None:
    monitor = place.monitor()
    with LoneQmp(place.socket, lambda command, arguments: b"") as server:
        async with closing(monitor):
            asking = asyncio.create_task(monitor.execute("stop"))
            await server.until(lambda: server.commands == 1)
            await monitor.close()
            with pytest.raises(TargetGone):
                await asking
    place.assert_unlocked()


async def test_close_ends_a_command_that_connects(place: Place) -> None:
    monitor = place.monitor(timeouts=MonitorTimeouts(connect_s=LONG_S))
    with LoneQmp(place.socket, echo, greets=False) as server:
        async with closing(monitor):
            asking = asyncio.create_task(monitor.execute("stop"))
            await server.until(lambda: server.accepted == 1)
            await monitor.close()
            with pytest.raises(TargetGone):
                await asking
            await server.until(lambda: server.left == 1)
    place.assert_unlocked()


async def test_close_ends_a_command_that_waits_for_the_lock(place: Place) -> None:
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


HOLDER = """
import asyncio, sys
from vramtap.targets.xen.libxl_qmp import LibxlMonitor, SessionTimings

async def talk():
    monitor = LibxlMonitor(*sys.argv[1:], timings=SessionTimings(hold_s=1000, linger_s=1000))
    await monitor.execute("stop")
    print("HELD", flush=True)
    await asyncio.Event().wait()

asyncio.run(talk())
"""


async def test_a_killed_process_leaves_only_the_lock_file(place: Place) -> None:
    """Only the lock file stays, which blocks no process."""
    with LoneQmp(place.socket, echo) as server:
        env = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        process = spawn(
            [sys.executable, "-c", HOLDER, place.socket, place.lock], stdout=subprocess.PIPE, env=env
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
