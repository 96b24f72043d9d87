"""Finding the XWD header of an X server's framebuffer in the server's memory.

Xvfb puts the same block - header, colour map, pixels - at the start of a mapped file (`-fbdir`), at the
start of a SysV segment (`-shmem`), or into what malloc gives: for a screen of common size a mapping of its
own, whose first 16 bytes are malloc's, and which the kernel may have merged with a neighbour; for a small
one the heap. So the header is looked for by its first words. Any client can make a server hold such words,
in a pixmap or a property: what is found here is a candidate until its pixels have been compared.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from vramtap.errors import KernelError, Refused
from vramtap.linux.calls import REMEDY_PTRACE
from vramtap.linux.procfs import readable_end
from vramtap.memory.extent import Extent
from vramtap.pages import PAGE_SIZE, PageRuns
from vramtap.targets.x11.xwd import HEADER_BYTES, MAGIC_OFFSET, NAME_BYTES, XwdHeader, magic

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vramtap.linux.procfs import Mapping
    from vramtap.memory.process import ProcessSpace

MAX_SCAN_BYTES: Final = 4 << 30
"""Of a server's memory looked through; a second or two, and more than Xvfb with full pixmaps holds."""
MAX_MAPPING_BYTES: Final = 64 << 30
"""A larger anonymous mapping is address space that something keeps for itself, and no block of malloc's."""
MAX_CANDIDATES: Final = 16
_CHUNK_PAGES: Final = 4096
_ENTRY: Final = np.dtype("<u8")
_PRESENT_OR_SWAPPED: Final = np.uint64(0b11 << 62)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A header that was found, and where.

    Args:
        address: Of its first byte, in the server.
        header: What it says.
        where: In which kind of memory, for messages.
    """

    address: int
    header: XwdHeader
    where: str


def read_bytes(space: ProcessSpace, address: int, size: int) -> bytes:
    """Copy bytes from any address.

    Raises:
        TargetGone: the process has ended.
        KernelError: some of it is not mapped.
    """
    first = address // PAGE_SIZE
    pages = -(-(address + size) // PAGE_SIZE) - first
    data = np.empty(pages * PAGE_SIZE, np.uint8)
    Extent(space, first * PAGE_SIZE, pages).read(PageRuns.full(pages), data)
    at = address - first * PAGE_SIZE
    return data[at : at + size].tobytes()


def find_headers(space: ProcessSpace, mappings: list[Mapping], depth: int, screen: int) -> list[Candidate]:
    """All headers in a server's memory that can be that of a screen.

    Only pages that have memory behind them are read: reading others would give them some.

    Args:
        space: The server's.
        mappings: Its mappings, by address.
        depth: Of the root window, bits.
        screen: Its number.

    Returns:
        At most `MAX_CANDIDATES`, those in shared memory first.

    Raises:
        Refused: no permission.
        TargetGone: the server has ended.
    """
    writable = [mapping for mapping in mappings if mapping.perms.startswith("rw")]
    # A shared block is a mapping of its own and begins with the header.
    spans = [(m.start, m.start + PAGE_SIZE, m.path) for m in writable if m.perms[3] == "s" and not m.offset]
    heaps = [m for m in writable if m.perms[3] == "p" and m.anonymous and m.path in ("", "[heap]")]
    heaps = [m for m in heaps if m.size_bytes <= MAX_MAPPING_BYTES]
    found: list[Candidate] = []
    left = MAX_SCAN_BYTES
    for start, end, where in (*spans, *_populated(space, heaps)):
        left -= end - start
        if left < 0 or len(found) >= MAX_CANDIDATES:
            break
        try:
            data = read_bytes(space, start, end - start)
        except KernelError as error:
            if error.errno in (errno.EPERM, errno.EACCES):
                raise Refused("attach", space.name, error.reason, REMEDY_PTRACE) from error
            continue  # unmapped since the list was made
        for at in _headers_in(data, depth):
            header = XwdHeader.parse(data[at : at + HEADER_BYTES + NAME_BYTES])
            if header is None or header.depth != depth or not header.is_screen(screen):
                continue
            whole = readable_end(mappings, start + at) >= start + at + header.end_offset
            if whole and all(start + at != other.address for other in found):
                found.append(Candidate(start + at, header, where or "anonymous memory"))
    return found[:MAX_CANDIDATES]


def _headers_in(data: bytes, depth: int) -> Iterator[int]:
    """Where headers may begin in these bytes."""
    wanted = magic(depth)
    at = data.find(wanted, MAGIC_OFFSET)
    while at >= 0:
        yield at - MAGIC_OFFSET
        at = data.find(wanted, at + 1)


def _populated(space: ProcessSpace, mappings: list[Mapping]) -> Iterator[tuple[int, int, str]]:
    """The parts of mappings that have memory behind them, in pieces; each overlaps the next by a page.

    Kernel: /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst): bit 63 present, bit 62 swapped.
    """
    path = f"/proc/{space.pid}/pagemap"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise Refused("open", path, error.strerror or str(error), REMEDY_PTRACE) from error
    try:
        for mapping in mappings:
            for first in range(mapping.start, mapping.end, _CHUNK_PAGES * PAGE_SIZE):
                last = min(first + (_CHUNK_PAGES + 1) * PAGE_SIZE, mapping.end)
                for run_first, run_last in _present(descriptor, first, last):
                    yield first + run_first * PAGE_SIZE, first + run_last * PAGE_SIZE, mapping.path
    finally:
        os.close(descriptor)


def _present(descriptor: int, start: int, end: int) -> PageRuns:
    wanted = (end - start) // PAGE_SIZE * _ENTRY.itemsize
    data = os.pread(descriptor, wanted, start // PAGE_SIZE * _ENTRY.itemsize)
    entries: NDArray[np.uint64] = np.frombuffer(data, _ENTRY)
    return PageRuns.from_mask((entries & _PRESENT_OR_SWAPPED) != 0)
