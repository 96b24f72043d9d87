"""`shm:` targets."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np
import pytest

from vramtap.errors import NotFound, NotTappable, TargetGone, UsageError
from vramtap.pages import PAGE_SIZE, PageRuns
from vramtap.targets.open import open_target
from vramtap.targets.shm import FileTarget
from vramtap.targets.url import parse

if TYPE_CHECKING:
    from pathlib import Path


def target_of(path: Path | str, query: str) -> FileTarget:
    return FileTarget(parse(f"shm:{quote(str(path))}?{query}"))


def read(target: FileTarget) -> bytes:
    data = np.empty(target.extent.size_bytes, np.uint8)
    target.extent.read(PageRuns.full(target.extent.pages), data)
    return data.tobytes()


def content(path: Path) -> bytes:
    return path.read_bytes()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a screen? 100%"
    path.write_bytes(np.random.default_rng(6).integers(0, 256, 5 * PAGE_SIZE + 123, np.uint8).tobytes())
    return path


async def test_a_file_is_read(file: Path) -> None:
    async with target_of(file, "mode=32x32") as target:
        mode = await target.mode()
        assert mode is not None
        assert (mode.offset_bytes, target.extent.pages, target.extent.address) == (0, 1, 0)
        assert read(target) == content(file)[:PAGE_SIZE]
        assert target.extent.space.pid is None
        assert target.extent.space.name == str(file)
        assert target.input is None


async def test_any_offset_and_a_partial_last_page(file: Path) -> None:
    offset = 3 * PAGE_SIZE + 57
    size = 5 * PAGE_SIZE + 123 - offset
    async with target_of(file, f"mode={size}x1&format=C8&offset={offset}") as target:
        mode = await target.mode()
        assert mode is not None
        assert (target.extent.address, target.extent.pages, mode.offset_bytes) == (3 * PAGE_SIZE, 3, 57)
        assert read(target)[57 : 57 + size] == content(file)[offset:]


async def test_a_write_is_visible_at_once(file: Path) -> None:
    async with target_of(file, "mode=8x8") as target:
        with file.open("r+b") as writer:
            writer.write(b"new")
        assert read(target)[:3] == b"new"


async def test_a_memfd_is_opened_by_its_proc_path() -> None:
    descriptor = os.memfd_create("screen")
    try:
        os.write(descriptor, bytes(range(256)) * 16)
        async with target_of(f"/proc/{os.getpid()}/fd/{descriptor}", "mode=32x32") as target:
            assert read(target) == bytes(range(256)) * 16
    finally:
        os.close(descriptor)


async def test_a_file_that_is_too_short_is_refused(file: Path) -> None:
    with pytest.raises(NotTappable, match=r"the file has 20603 bytes, the mode needs 20608 \(compare mode="):
        await target_of(file, "mode=5152x1").__aenter__()


async def test_a_truncated_file_raises_target_gone(file: Path) -> None:
    async with target_of(file, "mode=32x128") as target:
        os.truncate(file, PAGE_SIZE)
        with pytest.raises(TargetGone, match="truncated to 4096 bytes"):
            read(target)
        with pytest.raises(TargetGone, match="truncated to 4096 bytes, 16384 are needed"):
            await target.mode()


async def test_an_unlinked_file_is_still_read(file: Path) -> None:
    async with target_of(file, "mode=8x8") as target:
        data = content(file)[:PAGE_SIZE]
        os.unlink(file)
        assert read(target) == data
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(target.gone(), 0)


async def test_only_regular_files_are_accepted(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
    for name, kind in (
        ("pipe", "a pipe"),
        ("socket", "a socket"),
        (".", "a directory"),
        ("/dev/zero", "a device"),
    ):
        with pytest.raises(NotTappable, match=rf"is {kind} \(give a regular file"):
            await target_of(tmp_path / name, "mode=8x8").__aenter__()


async def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path / "no" / "directory"):
        with pytest.raises(NotFound, match=r"no file .* \(is the program that writes it running\?\)"):
            await target_of(path, "mode=8x8").__aenter__()


async def test_a_snapshot_is_refused(file: Path) -> None:
    async with target_of(file, "mode=8x8") as target:
        with pytest.raises(NotTappable):
            await target.snapshot()


async def test_no_descriptor_is_leaked(file: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for query in ("mode=8x8", "mode=9999x99"):
        try:
            async with target_of(file, query):
                pass
        except NotTappable:
            assert query == "mode=9999x99"
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_missing_mode_is_refused() -> None:
    with pytest.raises(UsageError, match="mode= is missing"):
        open_target("shm:/dev/shm/x")
