"""Boot data: what a guest finds in RAM when it starts."""

from __future__ import annotations

import pytest

from vramtap.errors import UsageError
from vramtap.machine.boot import prepare
from vramtap.machine.layout import (
    BOOT_INFO,
    BOOT_MAGIC,
    BOOT_PDS,
    COMMAND_LINE,
    COMMAND_LINE_BYTES,
    RAM_BYTES,
    VRAM_BASE,
    VRAM_BYTES,
    BootInfo,
)
from vramtap.machine.memory import GuestMemory


def test_boot_info_describes_the_vm() -> None:
    memory = GuestMemory()
    prepare(memory, "workload=idle seed=1")
    info = BootInfo.from_buffer_copy(memory.ram.tobytes(), BOOT_INFO)
    assert (info.magic, info.size) == (BOOT_MAGIC, 40)
    assert (info.ram_bytes, info.vram_base, info.vram_bytes) == (RAM_BYTES, VRAM_BASE, VRAM_BYTES)
    text = memory.ram[info.command_line : info.command_line + COMMAND_LINE_BYTES].tobytes()
    assert text.split(b"\0")[0] == b"workload=idle seed=1"


def test_boot_tables_identity_map_four_gib() -> None:
    memory = GuestMemory()
    prepare(memory, "")
    entries = memory.words(BOOT_PDS, 2048)
    assert [int(entry) for entry in entries] == [index << 21 | 0x83 for index in range(2048)]


@pytest.mark.parametrize("line", ["x" * COMMAND_LINE_BYTES, "caf\u00e9", "a\nb", "a\0b"])
def test_invalid_command_line_is_refused(line: str) -> None:
    with pytest.raises(UsageError, match="command line"):
        prepare(GuestMemory(), line)


def test_longest_command_line_stays_within_its_room() -> None:
    memory = GuestMemory()
    prepare(memory, "x" * (COMMAND_LINE_BYTES - 1))
    assert not memory.ram[
        COMMAND_LINE + COMMAND_LINE_BYTES - 1 : COMMAND_LINE + COMMAND_LINE_BYTES + 4096
    ].any()
