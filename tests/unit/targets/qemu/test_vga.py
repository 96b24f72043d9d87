"""Commands that QemuVga sends, and what it makes of the answers."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import pytest

from vramtap.display import bochs
from vramtap.display.mode import Mode, PixelFormat
from vramtap.errors import NotTappable, VramtapError
from vramtap.targets.qemu.vga import SCREENDUMP_ATTEMPTS, QemuVga

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

VRAM_BYTES = 16 << 20
LINEAR = [0xB0C5, 800, 600, 32, 0x41, 0, 800, 600, 0, 0, 256]
GONE = [0xFFFF] * bochs.COUNT


class Scripted:
    """A monitor with prepared answers that records the commands. System tests use a real one."""

    def __init__(self) -> None:
        self.vram, self.mmio, self.vendor = 0xF0000000, 0xF1000000, 0x1234
        self.words = LINEAR
        self.pictures = [b"a"]
        self.commands: list[str] = []
        self.lent: dict[str, Path] = {}
        self.open = 0

    @contextlib.asynccontextmanager
    async def batch(self) -> AsyncIterator[Self]:
        self.commands.append("(")
        yield self
        self.commands.append(")")

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        self.commands.append(command)
        if command == "query-pci":
            regions = [
                {"bar": bar, "address": address, "size": size}
                for bar, address, size in [(0, self.vram, VRAM_BYTES), (2, self.mmio, 4096)]
            ]
            ident = {"vendor": self.vendor, "device": 0x1111}
            return [{"devices": [{"id": ident, "class_info": {"class": 0x300}, "regions": regions}]}]
        assert command == "screendump"
        assert arguments is not None
        pixel = self.pictures.pop(0) if len(self.pictures) > 1 else self.pictures[0]
        with self.lent[str(arguments["filename"])].open("wb") as file:
            file.write(b"P6\n1 1\n255\n" + pixel * 3)
        return {}

    async def hmp(self, line: str) -> str:
        self.commands.append(line)
        return f"{self.mmio:016x}: {' '.join(f'0x{word:04x}' for word in self.words)}\r\n"

    async def add_fd(self, fd: int, fdset: int) -> None:
        self.commands.append("add-fd")
        self.lent[f"/dev/fdset/{fdset}"] = Path(f"/proc/self/fd/{fd}")

    async def remove_fd(self, fdset: int) -> None:
        self.commands.append("remove-fd")
        del self.lent[f"/dev/fdset/{fdset}"]


def scripted_vga() -> tuple[QemuVga, Scripted]:
    monitor = Scripted()
    return QemuVga(monitor, "xen:7", "set vga = stdvga"), monitor


async def test_read_bars_returns_the_current_places() -> None:
    vga, monitor = scripted_vga()
    assert (vga.vram_bar, vga.mmio_bar) == (-1, -1)
    assert await vga.read_bars() == VRAM_BYTES
    assert (vga.vram_bar, vga.mmio_bar) == (0xF0000000, 0xF1000000)
    monitor.vram, monitor.mmio = 0xE0000000, -1
    assert await vga.read_bars() == VRAM_BYTES
    assert (vga.vram_bar, vga.mmio_bar) == (0xE0000000, -1)


async def test_mode_reads_the_registers_at_their_bar() -> None:
    vga, monitor = scripted_vga()
    linear = Mode(800, 600, 3200, PixelFormat.XR24, 0)
    assert await vga.mode(VRAM_BYTES) == linear
    assert await vga.mode(VRAM_BYTES) == linear
    assert monitor.commands == ["query-pci", "xp /11hx 0xf1000500", "xp /11hx 0xf1000500"]
    assert await vga.mode(1 << 20) is None


async def test_mode_reads_the_bars_again_after_the_registers_vanished() -> None:
    vga, monitor = scripted_vga()
    assert await vga.mode(VRAM_BYTES) is not None
    monitor.words, monitor.mmio = GONE, 0xE1000000
    assert await vga.mode(VRAM_BYTES) is None
    monitor.words = LINEAR
    assert await vga.mode(VRAM_BYTES) is not None
    assert monitor.commands[-1] == "xp /11hx 0xe1000500"


async def test_registers_that_are_not_placed_are_not_read() -> None:
    vga, monitor = scripted_vga()
    monitor.mmio = -1
    for _ in range(2):
        assert await vga.mode(VRAM_BYTES) is None
    assert monitor.commands == ["query-pci", "query-pci"]


async def test_another_display_device_is_named_in_the_error() -> None:
    vga, monitor = scripted_vga()
    monitor.vendor = 0x1013
    with pytest.raises(NotTappable, match=r"attach xen:7: .*Cirrus has no DISPI registers \(set vga"):
        await vga.read_bars()


async def test_snapshot_repeats_screendumps_over_one_connection_until_two_agree() -> None:
    vga, monitor = scripted_vga()
    monitor.pictures = [b"a", b"b", b"b"]
    assert np.array_equal(await vga.snapshot(), [[0x626262]])
    assert monitor.commands == ["(", "add-fd", *["screendump"] * 3, "remove-fd", ")"]
    monitor.pictures, monitor.commands = [bytes([n]) for n in range(9)], []
    assert np.array_equal(await vga.snapshot(), [[0x030303]])
    assert monitor.commands.count("screendump") == SCREENDUMP_ATTEMPTS
    assert not monitor.lent


async def test_a_lent_descriptor_is_taken_back_after_an_invalid_picture() -> None:
    vga, monitor = scripted_vga()
    monitor.pictures = [b""]
    with pytest.raises(VramtapError, match="screendump of xen:7"):
        await vga.snapshot()
    assert not monitor.lent
