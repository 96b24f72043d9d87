"""Search for Xvfb's header, in the memory of this process."""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import subprocess
from typing import TYPE_CHECKING

import numpy as np
import pytest

from vramtap.errors import KernelError, TargetGone
from vramtap.linux.procfs import Mapping, read_maps
from vramtap.memory.process import ProcessSpace
from vramtap.pages import PAGE_SIZE
from vramtap.targets.x11.framebuffer_search import MAX_CANDIDATES, find_headers, read_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

WIDTH, HEIGHT = 321, 7
END = 160 + 4 * 12 + WIDTH * 4 * HEIGHT
PAGES = 8


def block(name: bytes = b"Xvfb host:1.0", depth: int = 24) -> bytes:
    words = [160, 7, 2, depth, WIDTH, HEIGHT, 0, 0, 32, 0, 32, 32, WIDTH * 4]
    words += [4, 0xFF0000, 0xFF00, 0xFF, 8, 256, 4, WIDTH, HEIGHT, 0, 0, 0]
    return struct.pack(">25I", *words) + name.ljust(60, b"\0")


class Memory:
    """Pages of this process, and the mappings that a search gets."""

    def __init__(self, *, shared: bool = False) -> None:
        flags = (mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE) | mmap.MAP_ANONYMOUS
        self.map = mmap.mmap(-1, PAGES * PAGE_SIZE, flags)
        array = np.frombuffer(self.map, np.uint8)
        self.address = int(array.ctypes.data)
        del array
        self.space = ProcessSpace(os.getpid())

    def mappings(self) -> list[Mapping]:
        end = self.address + PAGES * PAGE_SIZE
        whole = next(m for m in read_maps(os.getpid()) if m.start <= self.address and end <= m.end)
        return [Mapping(self.address, end, whole.perms, 0, "00:00", 0 if whole.perms[3] == "p" else 1, "")]

    def found(self, depth: int = 24, screen: int = 0) -> list[int]:
        return [
            one.address - self.address for one in find_headers(self.space, self.mappings(), depth, screen)
        ]


@pytest.fixture
def memory() -> Iterator[Memory]:
    opened = Memory()
    with contextlib.closing(opened.space), contextlib.closing(opened.map):
        yield opened


@pytest.mark.parametrize(
    "at", [0, 16, 3696, PAGE_SIZE - 50, PAGE_SIZE - 4, 2 * PAGE_SIZE, PAGES * PAGE_SIZE - END]
)
def test_a_header_at_any_address_is_found(memory: Memory, at: int) -> None:
    memory.map[at : at + 160] = block()
    assert memory.found() == [at]


def test_all_headers_are_found_once(memory: Memory) -> None:
    for at in (16, 4000, 4500):
        memory.map[at : at + 160] = block()
    assert memory.found() == [16, 4000, 4500]


def test_a_header_whose_pixels_do_not_fit_is_ignored(memory: Memory) -> None:
    at = PAGES * PAGE_SIZE - END + 1
    memory.map[at : at + 160] = block()
    assert memory.found() == []


def test_a_header_of_another_depth_or_screen_is_ignored(memory: Memory) -> None:
    memory.map[16 : 16 + 160] = block()
    assert memory.found(depth=16) == []
    assert memory.found(screen=1) == []


def test_a_header_cut_by_the_end_of_the_mapping_is_ignored(memory: Memory) -> None:
    memory.map[PAGES * PAGE_SIZE - 20 :] = block()[:20]
    assert memory.found() == []


def test_the_number_of_candidates_is_bounded(memory: Memory) -> None:
    for at in range(0, 100 * 164, 164):
        memory.map[at : at + 160] = block()
    assert len(memory.found()) == MAX_CANDIDATES


def test_pages_without_memory_are_not_read(memory: Memory) -> None:
    memory.map[PAGE_SIZE : PAGE_SIZE + 160] = block()
    assert memory.found() == [PAGE_SIZE]
    assert memory.space.bytes_read == PAGE_SIZE


def test_only_the_first_page_of_shared_memory_is_read() -> None:
    opened = Memory(shared=True)
    with contextlib.closing(opened.space), contextlib.closing(opened.map):
        opened.map[0:160] = block()
        opened.map[2 * PAGE_SIZE : 2 * PAGE_SIZE + 160] = block()
        assert opened.found() == [0]
        assert opened.space.bytes_read == PAGE_SIZE


def test_an_unmapped_mapping_is_skipped(memory: Memory) -> None:
    memory.map[16 : 16 + 160] = block()
    gone = Mapping(PAGE_SIZE, 2 * PAGE_SIZE, "rw-s", 0, "00:01", 5, "/SYSV00000000")
    found = find_headers(memory.space, [gone, *memory.mappings()], 24, 0)
    assert [one.address - memory.address for one in found] == [16]


def test_read_bytes_reads_from_any_address(memory: Memory) -> None:
    memory.map[4090:4100] = b"0123456789"
    assert read_bytes(memory.space, memory.address + 4090, 10) == b"0123456789"
    with pytest.raises(KernelError, match="EFAULT"):
        read_bytes(memory.space, 0, 1)


def test_read_bytes_of_an_ended_process_raises_target_gone() -> None:
    child = subprocess.Popen(["sleep", "600"])
    space = ProcessSpace(child.pid)
    child.kill()
    child.wait()
    with pytest.raises(TargetGone), contextlib.closing(space):
        read_bytes(space, 1 << 20, 1)
