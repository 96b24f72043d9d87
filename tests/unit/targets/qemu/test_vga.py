"""What is asked about the VGA, and in which order, with a monitor that writes it down."""

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
    """Stands where a monitor stands; the real ones are tested with a real QEMU."""

    def __init__(self) -> None:
        self.vram, self.mmio, self.vendor = 0xF0000000, 0xF1000000, 0x1234
        self.words = LINEAR
        self.pictures = [b"a"]
        self.asked: list[str] = []
        self.lent: dict[str, Path] = {}
        self.open = 0

    @contextlib.asynccontextmanager
    async def batch(self) -> AsyncIterator[Self]:
        self.asked.append("(")
        yield self
        self.asked.append(")")

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        self.asked.append(command)
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
        self.asked.append(line)
        return f"{self.mmio:016x}: {' '.join(f'0x{word:04x}' for word in self.words)}\r\n"

    async def add_fd(self, fd: int, fdset: int) -> None:
        self.asked.append("add-fd")
        self.lent[f"/dev/fdset/{fdset}"] = Path(f"/proc/self/fd/{fd}")

    async def remove_fd(self, fdset: int) -> None:
        self.asked.append("remove-fd")
        del self.lent[f"/dev/fdset/{fdset}"]


def made() -> tuple[QemuVga, Scripted]:
    monitor = Scripted()
    return QemuVga(monitor, "xen:7", "set vga = stdvga"), monitor


async def test_the_bars_are_where_the_guest_has_placed_them_now() -> None:
    vga, monitor = made()
    assert (vga.vram_bar, vga.mmio_bar) == (-1, -1)
    assert await vga.find() == VRAM_BYTES
    assert (vga.vram_bar, vga.mmio_bar) == (0xF0000000, 0xF1000000)
    monitor.vram, monitor.mmio = 0xE0000000, -1
    assert await vga.find() == VRAM_BYTES
    assert (vga.vram_bar, vga.mmio_bar) == (0xE0000000, -1)


async def test_the_registers_are_read_where_they_are() -> None:
    vga, monitor = made()
    linear = Mode(800, 600, 3200, PixelFormat.XR24, 0)
    assert await vga.mode(VRAM_BYTES) == linear
    assert await vga.mode(VRAM_BYTES) == linear
    assert monitor.asked == ["query-pci", "xp /11hx 0xf1000500", "xp /11hx 0xf1000500"]
    assert await vga.mode(1 << 20) is None


async def test_registers_that_are_gone_are_looked_for() -> None:
    vga, monitor = made()
    assert await vga.mode(VRAM_BYTES) is not None
    monitor.words, monitor.mmio = GONE, 0xE1000000
    assert await vga.mode(VRAM_BYTES) is None
    monitor.words = LINEAR
    assert await vga.mode(VRAM_BYTES) is not None
    assert monitor.asked[-1] == "xp /11hx 0xe1000500"


async def test_registers_that_are_not_placed_are_not_read() -> None:
    vga, monitor = made()
    monitor.mmio = -1
    for _ in range(2):
        assert await vga.mode(VRAM_BYTES) is None
    assert monitor.asked == ["query-pci", "query-pci"]


async def test_another_display_is_named() -> None:
    vga, monitor = made()
    monitor.vendor = 0x1013
    with pytest.raises(NotTappable, match=r"attach xen:7: .*Cirrus has no DISPI registers \(set vga"):
        await vga.find()


async def test_a_picture_is_taken_until_two_agree_over_one_connection() -> None:
    vga, monitor = made()
    monitor.pictures = [b"a", b"b", b"b"]
    assert np.array_equal(await vga.snapshot(), [[0x626262]])
    assert monitor.asked == ["(", "add-fd", *["screendump"] * 3, "remove-fd", ")"]
    monitor.pictures, monitor.asked = [bytes([n]) for n in range(9)], []
    assert np.array_equal(await vga.snapshot(), [[0x030303]])
    assert monitor.asked.count("screendump") == SCREENDUMP_ATTEMPTS
    assert not monitor.lent


async def test_what_is_lent_is_taken_back_after_nonsense() -> None:
    vga, monitor = made()
    monitor.pictures = [b""]
    with pytest.raises(VramtapError, match="screendump of xen:7"):
        await vga.snapshot()
    assert not monitor.lent
