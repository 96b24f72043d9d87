"""Images: loads a flat binary or an ELF executable into the VM's RAM."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Final

from vramtap.errors import UsageError
from vramtap.machine.layout import IMAGE_BASE, IMAGE_LOWEST, RAM_BYTES

if TYPE_CHECKING:
    from pathlib import Path

    from vramtap.machine.memory import GuestMemory

MAX_IMAGE_BYTES: Final = RAM_BYTES
"""Longest file that is read: as long as the RAM."""
_MAX_HEADERS: Final = 64
"""Most program headers accepted; linkers write fewer than ten."""
_ELF: Final = b"\x7fELF"
_IDENT: Final = bytes([2, 1, 1])
"""64 bits, little-endian, version 1 (ELF-64 object file format, figure 3)."""
_EXECUTABLE: Final = 2
_X86_64: Final = 62
_LOAD: Final = 1
_IDENTITY_END: Final = 1 << 32
"""The boot tables map the first 4 GiB to themselves."""


class _Header(ctypes.LittleEndianStructure):
    """Elf64_Ehdr (ELF-64 object file format, figure 2)."""

    _fields_ = (
        ("ident", ctypes.c_uint8 * 16),
        ("type", ctypes.c_uint16),
        ("machine", ctypes.c_uint16),
        ("version", ctypes.c_uint32),
        ("entry", ctypes.c_uint64),
        ("phoff", ctypes.c_uint64),
        ("shoff", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("ehsize", ctypes.c_uint16),
        ("phentsize", ctypes.c_uint16),
        ("phnum", ctypes.c_uint16),
        ("shentsize", ctypes.c_uint16),
        ("shnum", ctypes.c_uint16),
        ("shstrndx", ctypes.c_uint16),
    )


class _Segment(ctypes.LittleEndianStructure):
    """Elf64_Phdr (ELF-64 object file format, figure 6)."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("offset", ctypes.c_uint64),
        ("vaddr", ctypes.c_uint64),
        ("paddr", ctypes.c_uint64),
        ("filesz", ctypes.c_uint64),
        ("memsz", ctypes.c_uint64),
        ("align", ctypes.c_uint64),
    )


def read_image(path: Path) -> bytes:
    """Read an image file.

    Raises:
        UsageError: the file cannot be read, or is longer than the RAM.
    """
    try:
        with path.open("rb") as file:
            image = file.read(MAX_IMAGE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise UsageError("image", str(path), str(error)) from error
    if len(image) > MAX_IMAGE_BYTES:
        raise _bad(str(path), f"is longer than the VM's {RAM_BYTES >> 20} MiB of RAM")
    return image


def load(memory: GuestMemory, image: bytes, name: str = "image") -> int:
    """Put an image into RAM.

    The segments of an ELF64 executable for x86-64 go to their physical addresses. Anything else is a flat
    binary: it goes to `IMAGE_BASE` and starts at its first byte.

    Args:
        memory: The VM's memory. RAM outside the image stays as it is, that is zero.
        image: Content of the file.
        name: Name of the image in messages.

    Returns:
        The entry point, a virtual address.

    Raises:
        UsageError: the image is empty or does not fit, or is an ELF file that is damaged or of another kind.
    """
    if not image:
        raise _bad(name, "is empty")
    if image.startswith(_ELF):
        return _load_elf(memory, image, name)
    room = RAM_BYTES - IMAGE_BASE
    if len(image) > room:
        raise _bad(name, f"is {len(image)} bytes long; a flat image has room for {room}")
    memory.store(IMAGE_BASE, image)
    return IMAGE_BASE


def _load_elf(memory: GuestMemory, image: bytes, name: str) -> int:
    header = _read_header(image, name)
    segments = _read_segments(header, image, name)
    for segment in segments:
        _check_segment(segment, image, name)
    if not segments or header.entry >= _IDENTITY_END:
        raise _bad(name, f"has nothing to load, or its entry {header.entry:#x} is beyond 4 GiB")
    for segment in segments:
        memory.store(segment.paddr, image[segment.offset : segment.offset + segment.filesz])
    return int(header.entry)


def _read_header(image: bytes, name: str) -> _Header:
    """Return the file header, checked to be that of an executable for this VM."""
    if len(image) < ctypes.sizeof(_Header):
        raise _bad(name, "is an ELF file cut off in its header")
    header = _Header.from_buffer_copy(image)
    if bytes(header.ident[4:7]) != _IDENT or header.machine != _X86_64 or header.type != _EXECUTABLE:
        raise _bad(name, "is not a static ELF64 executable for x86-64", "link it with -static -no-pie")
    return header


def _read_segments(header: _Header, image: bytes, name: str) -> list[_Segment]:
    """Return the program headers that describe something to load."""
    if header.phentsize != ctypes.sizeof(_Segment) or not 0 < header.phnum <= _MAX_HEADERS:
        raise _bad(name, f"has {header.phnum} program headers of {header.phentsize} bytes")
    if header.phoff + header.phnum * header.phentsize > len(image):
        raise _bad(name, "is cut off in its program headers")
    offsets = range(header.phoff, header.phoff + header.phnum * header.phentsize, header.phentsize)
    segments = [_Segment.from_buffer_copy(image, offset) for offset in offsets]
    return [segment for segment in segments if segment.type == _LOAD and segment.memsz]


def _check_segment(segment: _Segment, image: bytes, name: str) -> None:
    """Check that a segment is complete and fits into RAM."""
    end = segment.paddr + segment.memsz
    if segment.paddr < IMAGE_LOWEST or end > RAM_BYTES:
        room = f"an image has {IMAGE_LOWEST:#x}-{RAM_BYTES:#x}"
        raise _bad(name, f"needs RAM at {segment.paddr:#x}-{end:#x}; {room}")
    if segment.filesz > segment.memsz or segment.offset + segment.filesz > len(image):
        raise _bad(name, f"is cut off in its segment at {segment.paddr:#x}")


def _bad(name: str, what: str, remedy: str = "") -> UsageError:
    return UsageError("image", name, what, remedy)
