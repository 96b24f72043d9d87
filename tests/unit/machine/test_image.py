"""Images: loading of valid and of damaged ones."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramtap.errors import UsageError
from vramtap.machine.image import load, read_image
from vramtap.machine.layout import IMAGE_BASE, RAM_BYTES
from vramtap.machine.memory import GuestMemory

if TYPE_CHECKING:
    from pathlib import Path

MEMORY = GuestMemory()
HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
SEGMENT = struct.Struct("<IIQQQQQQ")


def elf(
    *segments: tuple[int, bytes, int], entry: int = 0x20_0000, machine: int = 62, kind: int = 2, bits: int = 2
) -> bytes:
    """Return an ELF file with these segments: physical address, content, size in memory."""
    ident = b"\x7fELF" + bytes([bits, 1, 1]) + bytes(9)
    count = len(segments)
    head = HEADER.pack(
        ident, kind, machine, 1, entry, HEADER.size, 0, 0, HEADER.size, SEGMENT.size, count, 0, 0, 0
    )
    offset = HEADER.size + SEGMENT.size * count
    table, data = b"", b""
    for address, content, size in segments:
        table += SEGMENT.pack(1, 5, offset + len(data), address, address, len(content), size, 16)
        data += content
    return head + table + data


def ram(address: int, size: int) -> bytes:
    return MEMORY.ram[address : address + size].tobytes()


def test_flat_image_is_loaded_and_entered_at_image_base() -> None:
    assert load(MEMORY, b"\xf4flat") == IMAGE_BASE
    assert ram(IMAGE_BASE, 5) == b"\xf4flat"


def test_elf_segments_go_to_their_physical_addresses() -> None:
    image = elf((0x20_0000, b"code", 4), (0x30_0000, b"data", 4096), entry=0x20_0002)
    assert load(MEMORY, image) == 0x20_0002
    assert ram(0x20_0000, 4) == b"code"
    assert ram(0x30_0000, 6) == b"data\0\0"


def test_largest_flat_image_fits_and_a_larger_one_is_refused() -> None:
    largest = bytes(RAM_BYTES - IMAGE_BASE)
    assert load(GuestMemory(), largest) == IMAGE_BASE
    with pytest.raises(UsageError, match="room for"):
        load(MEMORY, largest + b"\0")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"", "is empty"),
        (b"\x7fELF", "cut off in its header"),
        (elf((0x20_0000, b"x", 1), bits=1), "not a static ELF64 executable"),
        (elf((0x20_0000, b"x", 1), machine=183), "not a static ELF64 executable"),
        (elf((0x20_0000, b"x", 1), kind=3), "not a static ELF64 executable"),
        (elf(), "0 program headers"),
        (elf(*[(0x20_0000, b"", 1)] * 65), "65 program headers"),
        (elf((0x1000, b"x", 1)), "needs RAM at"),
        (elf((RAM_BYTES - 1, b"xy", 2)), "needs RAM at"),
        (elf((1 << 63, b"x", 1 << 63)), "needs RAM at"),
        (elf((0x20_0000, b"xy", 1)), "cut off in its segment"),
        (elf((0x20_0000, b"xyz", 8))[:-1], "cut off in its segment"),
        (elf((0x20_0000, b"x", 1), entry=1 << 32), "beyond 4 GiB"),
        (elf((0x20_0000, b"", 0)), "nothing to load"),
    ],
)
def test_invalid_image_is_refused_with_a_reason(image: bytes, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(MEMORY, image, "kernel")


def test_refused_image_changes_no_memory() -> None:
    memory = GuestMemory()
    with pytest.raises(UsageError):
        load(memory, elf((0x20_0000, b"good", 4), (RAM_BYTES, b"bad", 3)))
    assert not memory.ram.any()


@given(
    st.binary(min_size=1, max_size=200).map(lambda tail: elf((0x20_0000, b"x", 1))[:64] + tail)
    | st.lists(st.tuples(st.integers(0, 127), st.integers(0, 255)), max_size=8).map(
        lambda changes: bytes(
            dict(changes).get(index, byte) for index, byte in enumerate(elf((0x20_0000, b"xy", 99)))
        )
    )
)
def test_damaged_elf_is_loaded_or_refused(image: bytes) -> None:
    try:
        entry = load(MEMORY, image)
    except UsageError:
        return
    assert 0 <= entry < 1 << 32


def test_unreadable_image_file_is_named_in_the_error(tmp_path: Path) -> None:
    path = tmp_path / "kernel"
    path.write_bytes(b"content")
    assert read_image(path) == b"content"
    with pytest.raises(UsageError, match="nowhere"):
        read_image(tmp_path / "nowhere")
    np.zeros(RAM_BYTES + 1, dtype=np.uint8).tofile(path)
    with pytest.raises(UsageError, match="64 MiB of RAM"):
        read_image(path)
