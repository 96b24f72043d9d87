"""The end of a process, and of a connection to it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import subprocess
from typing import TYPE_CHECKING

import pytest

from vramtap.errors import KernelError
from vramtap.linux.pidfd import PidFd
from vramtap.targets.process_exit import ProcessExit

if TYPE_CHECKING:
    from collections.abc import Iterator

HANG_S = 30


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "600"]) as started:
        yield started
        started.kill()


def watched(child: subprocess.Popen[bytes]) -> ProcessExit:
    with contextlib.closing(PidFd(child.pid)) as process:
        return ProcessExit(process)


async def test_all_waiters_return_when_the_process_ends(child: subprocess.Popen[bytes]) -> None:
    with contextlib.closing(watched(child)) as process_exit:
        waiting = [asyncio.create_task(process_exit.wait()) for _ in range(3)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        child.kill()
        await asyncio.wait_for(asyncio.gather(*waiting), HANG_S)
        await process_exit.wait()


async def test_waiting_needs_no_free_descriptor(child: subprocess.Popen[bytes]) -> None:
    with contextlib.closing(watched(child)) as process_exit:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (1, limits[1]))
        try:
            waiting = asyncio.create_task(process_exit.wait_or_lost(asyncio.Event().wait(), grace_s=HANG_S))
            await asyncio.sleep(0.01)
            assert not waiting.done()
            child.kill()
            assert await asyncio.wait_for(waiting, HANG_S)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)


async def test_without_a_free_descriptor_construction_fails(child: subprocess.Popen[bytes]) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.closing(PidFd(child.pid)) as process:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1, limits[1]))
        try:
            with pytest.raises(KernelError, match="EMFILE"):
                ProcessExit(process)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)


async def test_a_lost_connection_to_a_running_process(child: subprocess.Popen[bytes]) -> None:
    lost = asyncio.Event()
    lost.set()
    with contextlib.closing(watched(child)) as process_exit:
        assert not await process_exit.wait_or_lost(lost.wait(), grace_s=0)


async def test_a_process_that_exits_soon_after_its_connection_has_exited(
    child: subprocess.Popen[bytes],
) -> None:
    async def lose() -> None:
        child.kill()

    with contextlib.closing(watched(child)) as process_exit:
        assert await process_exit.wait_or_lost(lose(), grace_s=HANG_S)


async def test_close_frees_the_descriptor(child: subprocess.Popen[bytes]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    process_exit = watched(child)
    assert len(os.listdir("/proc/self/fd")) == before + 1
    process_exit.close()
    process_exit.close()
    assert len(os.listdir("/proc/self/fd")) == before
