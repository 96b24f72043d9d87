"""Images: what the machine runs, put into its RAM - a flat binary or an ELF executable."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Final

from vramtap.errors import UsageError
from vramtap.machine.layout import IMAGE_BASE, IMAGE_LOWEST, RAM_BYTES

if TYPE_CHECKING:
    from pathlib import Path

    from vramtap.machine.memory import GuestMemory

MAX_IMAGE_BYTES: Final = RAM_BYTES
"""No file longer than the RAM is read."""
_MAX_HEADERS: Final = 64
"""Program headers; linkers make fewer than ten."""
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
    """The bytes of an image file.

    Raises:
        UsageError: it cannot be read, is empty or is longer than the RAM.
    """
    try:
        with path.open("rb") as file:
            image = file.read(MAX_IMAGE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise UsageError("image", str(path), str(error)) from error
    if len(image) > MAX_IMAGE_BYTES:
        raise _bad(str(path), f"is longer than the machine's {RAM_BYTES >> 20} MiB of RAM")
    return image


def load(memory: GuestMemory, image: bytes, name: str = "image") -> int:
    """Put an image into RAM.

    An ELF64 executable for x86-64 goes where its segments' physical addresses say; anything else is taken
    for a flat binary, put at `IMAGE_BASE` and entered at its first byte.

    Args:
        memory: Its RAM is zero where the image leaves it alone.
        image: The file's content.
        name: What messages call it.

    Returns:
        Where to enter it.

    Raises:
        UsageError: it does not fit, or is an ELF file of another kind or damaged.
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
    if len(image) < ctypes.sizeof(_Header):
        raise _bad(name, "is an ELF file cut short in its header")
    header = _Header.from_buffer_copy(image)
    if bytes(header.ident[4:7]) != _IDENT or header.machine != _X86_64 or header.type != _EXECUTABLE:
        raise _bad(name, "is not a static ELF64 executable for x86-64", "link it with -static -no-pie")
    if header.phentsize != ctypes.sizeof(_Segment) or not 0 < header.phnum <= _MAX_HEADERS:
        raise _bad(name, f"has {header.phnum} program headers of {header.phentsize} bytes")
    if header.phoff + header.phnum * header.phentsize > len(image):
        raise _bad(name, "is cut short in its program headers")
    segments = [
        _Segment.from_buffer_copy(image, header.phoff + index * header.phentsize)
        for index in range(header.phnum)
    ]
    loaded = [segment for segment in segments if segment.type == _LOAD and segment.memsz]
    for segment in loaded:
        end = segment.paddr + segment.memsz
        if segment.paddr < IMAGE_LOWEST or end > RAM_BYTES:
            raise _bad(
                name, f"wants {segment.paddr:#x}-{end:#x}; RAM for images is {IMAGE_LOWEST:#x}-{RAM_BYTES:#x}"
            )
        if segment.filesz > segment.memsz or segment.offset + segment.filesz > len(image):
            raise _bad(name, f"is cut short in its segment at {segment.paddr:#x}")
    if not loaded or header.entry >= _IDENTITY_END:
        raise _bad(name, f"has nothing to load or its entry {header.entry:#x} beyond 4 GiB")
    for segment in loaded:
        memory.store(segment.paddr, image[segment.offset : segment.offset + segment.filesz])
    return int(header.entry)


def _bad(name: str, what: str, remedy: str = "") -> UsageError:
    return UsageError("image", name, what, remedy)
