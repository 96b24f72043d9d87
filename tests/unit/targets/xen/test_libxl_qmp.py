"""A monitor shared with libxl: sessions are short, and every process gets the lock."""

from __future__ import annotations

import asyncio
import os
from functools import partial
from pathlib import Path

import pytest

from support.fake_qmp import LoneQmp
from support.libxl_monitor import LONG_S, LONG_SESSIONS, Place, closing, echo, hammer, libxl, line
from support.testbed.supervise import stop
from vramtap.errors import TimedOut
from vramtap.linux.flock import LockFile
from vramtap.targets.xen.libxl_qmp import SessionTimings


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place.in_directory(tmp_path)


# Sessions


async def test_lock_and_connection_are_held_only_during_commands(place: Place) -> None:
    monitor = place.monitor()
    with LoneQmp(place.socket, echo) as server:
        async with closing(monitor):
            assert not place.lock.exists()
            for _ in range(2):
                accepted = server.accepted
                assert await monitor.execute("stop") == ["stop", {}]
                assert server.accepted == accepted + 1
                await server.until(lambda: server.left == server.accepted)
                assert not monitor.connected
                place.assert_unlocked()
                assert not place.lock.exists()
            assert monitor.sessions == 2


async def test_concurrent_commands_get_their_own_answers(place: Place) -> None:
    monitor = place.monitor(timings=LONG_SESSIONS)
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


async def test_a_session_ends_although_commands_follow(place: Place) -> None:
    monitor = place.monitor(timings=SessionTimings(hold_s=0.0, linger_s=LONG_S))
    with LoneQmp(place.socket, echo) as server:
        async with closing(monitor):
            for number in range(1, 6):
                await monitor.execute("stop")
                assert monitor.sessions == number
                assert not monitor.connected
            await server.until(lambda: server.left == 5)
        assert server.waited == 0


async def test_a_session_ends_after_its_longest_duration(place: Place) -> None:
    monitor = place.monitor(timings=SessionTimings(linger_s=LONG_S))
    with LoneQmp(place.socket, echo) as server:
        async with closing(monitor):
            await monitor.execute("stop")
            await server.until(lambda: server.left == 1)
            place.assert_unlocked()


async def test_a_batch_lends_a_descriptor_over_one_connection(place: Place, tmp_path: Path) -> None:
    monitor = place.monitor(timings=SessionTimings(hold_s=0.0))
    with LoneQmp(place.socket, echo) as server, (tmp_path / "lent").open("wb") as file:
        async with closing(monitor):
            async with monitor.batch() as commands:
                await commands.add_fd(file.fileno(), 70000)
                filename = {"filename": "/dev/fdset/70000"}
                assert await commands.execute("screendump", filename) == ["screendump", filename]
                await commands.remove_fd(70000)
            assert server.accepted == 1
            assert not monitor.connected


# Other processes that use the monitor


async def test_libxl_gets_the_lock_while_vramtap_sends_many_commands(place: Place) -> None:
    monitor = place.monitor()
    with LoneQmp(place.socket, echo) as server, libxl(place.socket, place.lock, 30) as other:
        async with closing(monitor):
            done = await asyncio.gather(
                *(hammer(monitor, f"task {n}", lambda _: other.poll() is not None) for n in range(3))
            )
        assert other.returncode == 0
        assert min(done) > 0
        assert server.accepted == 30 + monitor.sessions
        assert server.waited == 0
    place.assert_unlocked()


async def test_libxl_gets_the_lock_file_it_waits_for(place: Place) -> None:
    """Otherwise it would have to start again, and vramtap might be faster."""
    monitor = place.monitor(timings=LONG_SESSIONS)
    with LoneQmp(place.socket, echo):
        async with closing(monitor):
            await monitor.execute("stop")
            # Kept open, so that its inode number is not reused.
            with place.lock.open() as file, libxl("hold", place.lock) as other:
                await asyncio.to_thread(wait_for_waiter, other.pid)
                await monitor.close()
                assert line(other) == b"HELD\n"
                assert os.path.samestat(os.fstat(file.fileno()), place.lock.stat())


def wait_for_waiter(pid: int) -> None:
    """Return when a process waits for a lock (proc_locks(5))."""
    while not any(
        "->" in held and str(pid) in held.split() for held in Path("/proc/locks").read_text().splitlines()
    ):
        assert Path(f"/proc/{pid}").exists()


async def test_vramtap_gets_the_lock_while_libxl_sends_many_commands(place: Place) -> None:
    """This libxl does nothing but use the monitor, and the kernel wakes it first."""
    monitor = place.monitor(timings=SessionTimings(lock_timeout_s=LONG_S))
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
                    await hammer(monitor, "vramtap", partial(reached, goal))
            finally:
                other.kill()
                await reading
        assert server.waited == 0


async def test_two_taps_share_one_domain(place: Place) -> None:
    monitors = [place.monitor() for _ in range(2)]
    with LoneQmp(place.socket, echo) as server:
        async with closing(*monitors):

            def enough(done: int) -> bool:
                return all(monitor.sessions >= 5 for monitor in monitors)

            done = await asyncio.gather(*(hammer(each, f"{each}", enough) for each in monitors))
        assert min(done) > 0
        assert server.waited == 0


async def test_a_killed_holder_frees_the_lock(place: Place) -> None:
    monitor = place.monitor()
    with LoneQmp(place.socket, echo), libxl("hold", place.lock) as other:
        assert line(other) == b"HELD\n"
        async with closing(monitor):
            asking = asyncio.create_task(monitor.execute("stop"))
            assert not await asyncio.to_thread(_runs_under_foreign_lock, place, asking)
            other.kill()
            assert await asking == ["stop", {}]


def _runs_under_foreign_lock(place: Place, asking: asyncio.Task[object]) -> bool:
    """Return whether a command runs, or the lock is free, within the time of some attempts."""
    return any(asking.done() or LockFile.take(str(place.lock)) is not None for _ in range(1000))


async def test_a_lock_that_is_never_freed_times_out_and_names_its_holder(place: Place) -> None:
    monitor = place.monitor(timings=SessionTimings(lock_timeout_s=0.1))
    with LoneQmp(place.socket, echo) as server, libxl("hold", place.lock) as other:
        assert line(other) == b"HELD\n"
        async with closing(monitor):
            with pytest.raises(TimedOut, match=rf"lock \S+: pid {other.pid} \(.+\) holds .+ \(see .+\)"):
                await monitor.execute("stop")
            stop(other)
            assert await monitor.execute("stop") == ["stop", {}]
        assert server.accepted == 1
