"""Real processes and files: no write is missed."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import numpy as np
import pytest

from support.process_state import protections
from support.testbed.writer import Writer
from vramtap.display.screen import Screen
from vramtap.errors import TargetGone
from vramtap.pages import PAGE_SIZE, PageRuns
from vramtap.targets.open import open_target
from vramtap.trackers.base import AllDirty
from vramtap.trackers.choose import choose

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from vramtap.targets.base import Target

WIDTH, HEIGHT = 640, 480
SIZE = WIDTH * HEIGHT * 4


def picture_of(memory: NDArray[np.uint8], start: int = 0) -> NDArray[np.uint32]:
    """Return the pixels that these bytes are."""
    pixels = memory[start : start + SIZE].view(np.uint32) & np.uint32(0xFFFFFF)
    return pixels.reshape(HEIGHT, WIDTH)


async def shown(target: Target) -> tuple[Screen, NDArray[np.uint32]]:
    mode = await target.mode()
    assert mode is not None
    screen = Screen()
    screen.set_mode(mode)
    screen.refresh(target.extent, PageRuns.full(target.extent.pages))
    return screen, screen.pixels.copy()


async def follow(target: Target, writer: Writer, tracker_name: str) -> NDArray[np.uint32]:
    """Follow a writer until its last write has been reported; return the pixels."""
    mode = await target.mode()
    assert mode is not None
    screen, tracker = Screen(), choose(tracker_name, target.extent).tracker
    screen.set_mode(mode)
    try:
        writer.begin()
        finishing = asyncio.create_task(asyncio.to_thread(writer.finish))
        while True:
            last = finishing.done()
            runs = tracker.collect()
            if isinstance(runs, AllDirty):
                runs = PageRuns.full(target.extent.pages)
            screen.refresh(tracker.read_from, runs)
            if last:
                return screen.pixels.copy()
            await asyncio.sleep(0)
    finally:
        tracker.stop()


@pytest.mark.parametrize("tracker", ["hybrid", "log", "compare"])
async def test_a_process_that_writes_at_full_speed_is_followed(tracker: str, stress: int) -> None:
    with Writer(SIZE + PAGE_SIZE, writes=100_000 * stress, seed=11, pause_every=50) as writer:
        # The first pixel is in the middle of a page.
        url = f"pid:{writer.pid}?address={writer.address + 1000:#x}&mode={WIDTH}x{HEIGHT}&offset=24"
        async with open_target(url) as target:
            seen = await follow(target, writer, tracker)
        np.testing.assert_array_equal(seen, picture_of(writer.memory(), 1024))


async def test_a_tap_leaves_no_protection_behind() -> None:
    with Writer(SIZE) as writer:
        url = f"pid:{writer.pid}?address={writer.address:#x}&mode={WIDTH}x{HEIGHT}"
        async with open_target(url) as target:
            tracker = choose("log", target.extent).tracker
            assert protections(writer.pid)
            tracker.stop()
        assert not protections(writer.pid)


async def test_gone_returns_when_the_process_is_killed() -> None:
    with Writer(SIZE) as writer:
        url = f"pid:{writer.pid}?address={writer.address:#x}&mode={WIDTH}x{HEIGHT}"
        async with open_target(url) as target:
            writer.run_forever()
            gone = asyncio.create_task(target.gone())
            os.kill(writer.pid, 9)
            assert await asyncio.wait_for(gone, 30) == f"process {writer.pid} exited"
            with pytest.raises(TargetGone):
                await shown(target)


async def test_a_file_that_is_written_at_full_speed_is_followed(tmp_path: Path) -> None:
    file = tmp_path / "screen"
    file.touch()
    os.truncate(file, SIZE)
    with Writer(SIZE, path=file, writes=100_000, seed=12, pause_every=50) as writer:
        async with open_target(f"shm:{file}?mode={WIDTH}x{HEIGHT}") as target:
            seen = await follow(target, writer, "auto")
            np.testing.assert_array_equal(seen, picture_of(writer.memory()))


async def test_a_memfd_can_be_tapped_by_descriptor_and_by_address() -> None:
    descriptor = os.memfd_create("screen")
    os.truncate(descriptor, SIZE)
    path = f"/proc/self/fd/{descriptor}"
    try:
        with Writer(SIZE, path=path, pass_fds=(descriptor,), seed=13) as writer:
            writer.run()
            truth = picture_of(writer.memory())
            pid_url = f"pid:{writer.pid}?address={writer.address:#x}&mode={WIDTH}x{HEIGHT}"
            shm_url = f"shm:/proc/{writer.pid}/fd/{descriptor}?mode={WIDTH}x{HEIGHT}"
            for url in (pid_url, shm_url):
                async with open_target(url) as target:
                    _, seen = await shown(target)
                    np.testing.assert_array_equal(seen, truth)
    finally:
        os.close(descriptor)
