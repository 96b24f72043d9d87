"""DispiDevice: the Bochs DISPI registers of the display, by which a guest sets its mode and flips pages.

They behave as in QEMU (docs/specs/standard-vga.rst; hw/display/vga.c, `vbe_fixup_regs`,
`vbe_ioport_write_data`): while the display is on, values that the guest writes are adjusted to a mode that
fits the video RAM, and the guest reads back the adjusted values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vramtap.machine.layout import PORT_DISPI_DATA, PORT_DISPI_INDEX, VRAM_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vramtap.machine.memory import GuestMemory

ID: Final = 0
XRES: Final = 1
YRES: Final = 2
BPP: Final = 3
ENABLE: Final = 4
BANK: Final = 5
VIRT_WIDTH: Final = 6
VIRT_HEIGHT: Final = 7
X_OFFSET: Final = 8
Y_OFFSET: Final = 9
VIDEO_MEMORY_64K: Final = 10

ENABLED: Final = 0x01
GETCAPS: Final = 0x02
LFB_ENABLED: Final = 0x40
NOCLEARMEM: Final = 0x80

MAX_XRES: Final = 16000
MAX_YRES: Final = 12000
MAX_BPP: Final = 32
_MAXIMA: Final = {XRES: MAX_XRES, YRES: MAX_YRES, BPP: MAX_BPP}

_ID_FIRST, _ID_LAST = 0xB0C0, 0xB0C5
_DEPTHS: Final = {4: 4, 8: 8, 15: 16, 16: 16, 24: 24, 32: 32}
"""Bits a pixel in the register, and bits a pixel in memory."""
_BANK_MASK: Final = VRAM_BYTES // 65536 - 1
_GEOMETRY: Final = frozenset((XRES, YRES, BPP, VIRT_WIDTH, X_OFFSET, Y_OFFSET))


class DispiDevice:
    """The registers behind the index and data ports, 16 bits each. Accesses of other sizes have no effect.

    The CPU's thread reads and writes the ports. Any thread may call `words`: all registers are replaced at
    once, so a mode is never seen half set.

    Args:
        memory: Its video RAM is the scanout, and is cleared when the guest sets a mode.
        on_change: Called on the CPU's thread after the scanout may have changed.
    """

    def __init__(self, memory: GuestMemory, on_change: Callable[[], None]) -> None:
        self.ports: Iterable[int] = (PORT_DISPI_INDEX, PORT_DISPI_DATA)
        self._memory = memory
        self._on_change = on_change
        self._index = 0
        self._registers = (_ID_LAST, *[0] * 9)

    def words(self) -> list[int]:
        """Return all registers by index, as `display.bochs.Dispi.from_words` takes them."""
        return [*self._registers, VRAM_BYTES // 65536]

    def read(self, port: int, size: int) -> int:
        """Return the index, or the register it selects."""
        if size != 2:
            return ~0
        if port == PORT_DISPI_INDEX:
            return self._index
        if self._registers[ENABLE] & GETCAPS and self._index in _MAXIMA:
            return _MAXIMA[self._index]
        words = self.words()
        return words[self._index] if self._index < len(words) else 0

    def write(self, port: int, size: int, value: int) -> None:
        """Set the index, or the register it selects."""
        if size != 2:
            return
        if port == PORT_DISPI_INDEX:
            self._index = value
            return
        before = self._registers
        registers = list(before)
        if self._index == ID:
            if _ID_FIRST <= value <= _ID_LAST:
                registers[ID] = value
        elif self._index == BANK:
            registers[BANK] = value & _BANK_MASK
        elif self._index == ENABLE:
            self._enable(registers, value)
        elif self._index in _GEOMETRY:
            registers[self._index] = value
            if registers[ENABLE] & ENABLED:
                _adjust(registers)
        self._registers = tuple(registers)
        if self._registers != before and (registers[ENABLE] | before[ENABLE]) & ENABLED:
            self._on_change()

    def _enable(self, registers: list[int], value: int) -> None:
        if value & ENABLED and not registers[ENABLE] & ENABLED:
            registers[VIRT_WIDTH] = registers[X_OFFSET] = registers[Y_OFFSET] = 0
            line_bytes = _adjust(registers)
            if not value & NOCLEARMEM:
                # Clear before the new mode is visible, so that no viewer gets the old content.
                visible = registers[YRES] * line_bytes
                self._memory.vram[:visible] = 0
                self._memory.wrote(0, visible)
        registers[ENABLE] = value


def _adjust(registers: list[int]) -> int:
    """Change a mode to one that fits the video RAM, as QEMU does; return the stride in bytes."""
    bits = _DEPTHS.get(registers[BPP])
    if bits is None:
        bits = registers[BPP] = 8
    registers[XRES] = min(registers[XRES] & ~7 or 8, MAX_XRES)
    registers[VIRT_WIDTH] = max(min(registers[VIRT_WIDTH] & ~7, MAX_XRES), registers[XRES])
    line_bytes = registers[VIRT_WIDTH] * bits // 8
    lines = VRAM_BYTES // line_bytes
    registers[YRES] = min(registers[YRES] or 1, MAX_YRES, lines)
    registers[VIRT_HEIGHT] = min(lines, 0xFFFF)
    registers[X_OFFSET] = min(registers[X_OFFSET], MAX_XRES)
    registers[Y_OFFSET] = min(registers[Y_OFFSET], MAX_YRES)
    shown_bytes = registers[YRES] * line_bytes
    left_bytes = registers[X_OFFSET] * bits // 8
    if left_bytes + registers[Y_OFFSET] * line_bytes + shown_bytes > VRAM_BYTES:
        registers[Y_OFFSET] = 0
        if left_bytes + shown_bytes > VRAM_BYTES:
            registers[X_OFFSET] = 0
    return line_bytes
