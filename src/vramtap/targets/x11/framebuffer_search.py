"""Finds the XWD header of an X server's framebuffer in the server's memory.

Facts. Xvfb puts the same block (header, colour map, pixels) at the start of a mapped file (`-fbdir`), at the
start of a SysV segment (`-shmem`), or into memory from malloc. For a screen of common size malloc makes a
mapping of its own, which begins with 16 bytes of malloc's, and which the kernel may have merged with a
neighbour. A small screen lies in the heap. Any client can make a server store the same bytes, in a pixmap or
a property.

Consequence. The header can be anywhere in the server's writable memory, and may be forged.

Decision. vramtap searches for the header's first words. What it finds is a candidate until the pixels have
been compared with those that the server shows (`verify`).
"""

from __future__ import annotations

import errno
import itertools
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

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
"""Most memory that is searched. It takes a second or two, and Xvfb full of pixmaps has less."""
MAX_MAPPING_BYTES: Final = 64 << 30
"""Larger anonymous mappings are reserved address space, not blocks of malloc's, and are skipped."""
MAX_CANDIDATES: Final = 16
_CHUNK_PAGES: Final = 4096
_ENTRY: Final = np.dtype("<u8")
_PRESENT_OR_SWAPPED: Final = np.uint64(0b11 << 62)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A header that may be that of a screen.

    Args:
        address: Address of its first byte in the server.
        header: Its content.
        where: Path or kind of the memory, for messages.
    """

    address: int
    header: XwdHeader
    where: str


class _Span(NamedTuple):
    """Addresses `[start, end)` of a mapping, and the mapping's path."""

    start: int
    end: int
    path: str


def read_bytes(space: ProcessSpace, address: int, size: int) -> bytes:
    """Copy bytes from any address.

    Raises:
        KernelError: they are not mapped or may not be read.
        TargetGone: the process has ended.
    """
    first = address // PAGE_SIZE
    pages = -(-(address + size) // PAGE_SIZE) - first
    data = np.empty(pages * PAGE_SIZE, np.uint8)
    Extent(space, first * PAGE_SIZE, pages).read(PageRuns.full(pages), data)
    at = address - first * PAGE_SIZE
    return data[at : at + size].tobytes()


def find_headers(space: ProcessSpace, mappings: list[Mapping], depth: int, screen: int) -> list[Candidate]:
    """Return all headers in a server's memory that may be that of a screen.

    Only pages that have memory are read, because a read would give memory to the others.

    Args:
        space: The server's memory.
        mappings: Its mappings, by address.
        depth: Depth of the root window, bits.
        screen: Number of the screen.

    Returns:
        At most `MAX_CANDIDATES`, those in shared memory first.

    Raises:
        Refused: there is no permission.
        TargetGone: the server has ended.
    """
    found: dict[int, Candidate] = {}
    for span, data in _contents(space, mappings):
        for at in _magic_offsets(data, depth):
            header = XwdHeader.parse(data[at : at + HEADER_BYTES + NAME_BYTES])
            if header is None or header.depth != depth or not header.is_screen(screen):
                continue
            address = span.start + at
            if readable_end(mappings, address) >= address + header.end_offset:
                found.setdefault(address, Candidate(address, header, span.path or "anonymous memory"))
        if len(found) >= MAX_CANDIDATES:
            break
    return list(found.values())[:MAX_CANDIDATES]


def _contents(space: ProcessSpace, mappings: list[Mapping]) -> Iterator[tuple[_Span, bytes]]:
    """Yield the parts of a server's memory that may hold a header, up to `MAX_SCAN_BYTES`."""
    left = MAX_SCAN_BYTES
    for span in _spans(space, mappings):
        left -= span.end - span.start
        if left < 0:
            return
        try:
            data = read_bytes(space, span.start, span.end - span.start)
        except KernelError as error:
            if error.errno in (errno.EPERM, errno.EACCES):
                raise Refused("attach", space.name, error.reason, REMEDY_PTRACE) from error
            continue  # the server has unmapped it meanwhile
        yield span, data


def _spans(space: ProcessSpace, mappings: list[Mapping]) -> Iterator[_Span]:
    """Yield the first pages of shared mappings, then the populated parts of anonymous ones."""
    writable = [mapping for mapping in mappings if mapping.perms.startswith("rw")]
    # A shared block has a mapping of its own, which begins with the header.
    shared = (
        _Span(mapping.start, mapping.start + PAGE_SIZE, mapping.path)
        for mapping in writable
        if mapping.perms[3] == "s" and not mapping.offset
    )
    private = [
        mapping
        for mapping in writable
        if mapping.perms[3] == "p"
        and mapping.anonymous
        and mapping.path in ("", "[heap]")
        and mapping.size_bytes <= MAX_MAPPING_BYTES
    ]
    return itertools.chain(shared, _populated(space, private))


def _magic_offsets(data: bytes, depth: int) -> Iterator[int]:
    """Yield the offsets at which a header may begin."""
    wanted = magic(depth)
    at = data.find(wanted, MAGIC_OFFSET)
    while at >= 0:
        yield at - MAGIC_OFFSET
        at = data.find(wanted, at + 1)


def _populated(space: ProcessSpace, mappings: list[Mapping]) -> Iterator[_Span]:
    """Yield the parts of mappings that have memory, in pieces. Each piece overlaps the next by a page.

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
                    yield _Span(first + run_first * PAGE_SIZE, first + run_last * PAGE_SIZE, mapping.path)
    finally:
        os.close(descriptor)


def _present(descriptor: int, start: int, end: int) -> PageRuns:
    """Return the pages between two addresses that have memory, counted from the first address."""
    size = (end - start) // PAGE_SIZE * _ENTRY.itemsize
    data = os.pread(descriptor, size, start // PAGE_SIZE * _ENTRY.itemsize)
    entries: NDArray[np.uint64] = np.frombuffer(data, _ENTRY)
    return PageRuns.from_mask((entries & _PRESENT_OR_SWAPPED) != 0)
