"""`pid:` targets, on the memory of this process and of children."""

from __future__ import annotations

import asyncio
import ctypes
import mmap
import os
import subprocess
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vramtap.errors import KernelError, NotFound, NotTappable, Refused, TargetGone, UsageError
from vramtap.linux.procfs import read_maps
from vramtap.pages import PAGE_SIZE, PageRuns
from vramtap.targets.open import open_target
from vramtap.targets.process import MAX_PID, ProcessTarget
from vramtap.targets.url import parse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

ME = os.getpid()
PAGES = 16


@pytest.fixture(scope="module")
def memory() -> tuple[int, NDArray[np.uint8]]:
    """Return an address and the memory there; the pages before and after it are not readable."""
    whole = mmap.mmap(-1, (PAGES + 2) * PAGE_SIZE)
    array = np.frombuffer(whole, np.uint8)
    address = int(array.ctypes.data)
    libc = ctypes.CDLL(None, use_errno=True)
    for guard in (address, address + (PAGES + 1) * PAGE_SIZE):
        assert libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(PAGE_SIZE), 0) == 0
    middle = array[PAGE_SIZE:-PAGE_SIZE]
    middle[:] = np.random.default_rng(5).integers(0, 256, len(middle), np.uint8)
    return address + PAGE_SIZE, middle


def target_of(url: str) -> ProcessTarget:
    return ProcessTarget(parse(url))


async def pixels(target: ProcessTarget) -> bytes:
    """Read the rows of the mode, without the bytes between them."""
    mode = await target.mode()
    assert mode is not None
    data = np.empty(target.extent.size_bytes, np.uint8)
    target.extent.read(PageRuns.full(target.extent.pages), data)
    row = mode.width * mode.format.bytes_per_pixel
    starts = [mode.offset_bytes + y * mode.stride_bytes for y in range(mode.height)]
    return b"".join(data[start : start + row].tobytes() for start in starts)


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 200),
    height=st.integers(1, 40),
    form=st.sampled_from(["XR24", "RG16", "RG24", "C8"]),
    padding=st.integers(0, 300),
    start=st.integers(0, 2 * PAGE_SIZE),
    offset=st.integers(0, 2 * PAGE_SIZE),
)
def test_a_framebuffer_at_any_address_is_read(
    memory: tuple[int, NDArray[np.uint8]],
    width: int,
    height: int,
    form: str,
    padding: int,
    start: int,
    offset: int,
) -> None:
    address, data = memory
    row = width * {"XR24": 4, "RG16": 2, "RG24": 3, "C8": 1}[form]
    stride, first = row + padding, start + offset
    end = first + (height - 1) * stride + row
    url = f"pid:{ME}?address={address + start:#x}&mode={width}x{height}&format={form}"
    url += f"&stride={stride}&offset={offset}"

    async def attach_and_read() -> tuple[bytes, int]:
        async with target_of(url) as target:
            assert target.extent.address <= address + first
            assert target.extent.end - PAGE_SIZE < address + end <= target.extent.end
            return await pixels(target), target.extent.pages

    if end > len(data):
        with pytest.raises(NotTappable, match=rf"nothing readable is mapped at {address + len(data):#x}"):
            asyncio.run(attach_and_read())
        return
    seen, pages = asyncio.run(attach_and_read())
    assert seen == b"".join(data[at : at + row].tobytes() for at in range(first, end, stride))
    assert pages <= (end - first) // PAGE_SIZE + 2


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("pid:?address=0&mode=1x1", r"nothing after pid:"),
        ("pid:me?address=0&mode=1x1", r"'me' is not a process id"),
        ("pid:0?address=0&mode=1x1", r"'0' is not a process id"),
        (f"pid:{MAX_PID + 1}?address=0&mode=1x1", r"is not a process id \(1 to 4194304"),
        ("pid:1?mode=1x1", r"address= is missing"),
        ("pid:1?address=0", r"mode= is missing"),
        ("pid:1?address=zero&mode=1x1", r"address=zero is not a number"),
    ],
)
def test_invalid_parameters_are_refused(url: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_target(url)


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that sleeps."""
    with subprocess.Popen(["sleep", "600"]) as started:
        yield started
        started.kill()


def stack_of(pid: int) -> int:
    """Return the address of the last page of the stack, which is always present."""
    return next(mapping.end for mapping in read_maps(pid) if mapping.path == "[stack]") - PAGE_SIZE


async def test_a_process_that_does_not_exist_is_refused(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.wait()
    with pytest.raises(NotFound, match=rf"no process {child.pid} \(see vramtap ls\)"):
        await target_of(f"pid:{child.pid}?address=4096&mode=1x1").__aenter__()


async def test_a_thread_id_is_refused() -> None:
    ready, done = threading.Event(), threading.Event()

    def wait() -> None:
        ready.set()
        done.wait()

    thread = threading.Thread(target=wait)
    thread.start()
    ready.wait()
    try:
        with pytest.raises(NotFound, match=r"is \d+ a thread\?"):
            await target_of(f"pid:{thread.native_id}?address=4096&mode=1x1").__aenter__()
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("address", ["0", "0x1000", "0xffffffffffffffff", "0xffffffffff600000"])
async def test_an_address_without_memory_is_refused(address: str) -> None:
    with pytest.raises((NotTappable, NotFound), match=r"^attach pid:"):
        await target_of(f"pid:{ME}?address={address}&mode=1x1").__aenter__()


async def test_mapped_memory_that_cannot_be_read_is_refused() -> None:
    vvar = next((mapping.start for mapping in read_maps(ME) if mapping.path == "[vvar]"), None)
    assert vvar is not None, "every x86-64 process has one"
    with pytest.raises(NotTappable, match=r"EFAULT.*device"):
        await target_of(f"pid:{ME}?address={vvar}&mode=8x8").__aenter__()


async def test_no_input_and_no_snapshot(memory: tuple[int, NDArray[np.uint8]]) -> None:
    async with target_of(f"pid:{ME}?address={memory[0]}&mode=8x8") as target:
        assert target.input is None
        assert target.extent.space.pid == ME
        with pytest.raises(NotTappable):
            await target.snapshot()


async def test_gone_returns_when_the_process_ends(child: subprocess.Popen[bytes]) -> None:
    async with target_of(f"pid:{child.pid}?address={stack_of(child.pid)}&mode=8x8") as target:
        waiting = [asyncio.create_task(target.gone()) for _ in range(2)]
        child.kill()
        message = await asyncio.wait_for(asyncio.gather(*waiting), 30)
        assert message == [f"process {child.pid} exited"] * 2
        child.wait()
        with pytest.raises((TargetGone, KernelError)):
            await pixels(target)


@pytest.fixture
def without_rights() -> Iterator[None]:
    """Run as a user who may not read the memory of other users' processes."""
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)
    yield
    if was == 0:
        os.seteuid(0)


@pytest.mark.usefixtures("without_rights")
async def test_a_process_of_another_user_is_refused() -> None:
    with pytest.raises(Refused, match=r"permission denied \(needs ptrace rights"):
        await target_of("pid:1?address=0x1000&mode=8x8").__aenter__()
