"""Bochs DISPI: the registers of QEMU's and Bochs' VGA, turned into a mode without trusting them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vramtap.display.mode import Mode, PixelFormat
from vramtap.errors import ModeError

MMIO_OFFSET: Final = 0x500
"""Where the DISPI registers begin in the MMIO BAR (QEMU: docs/specs/standard-vga)."""
COUNT: Final = 11
"""16-bit registers: index 0 (id) to 10 (video memory in 64 KiB units)."""

_ID_FIRST, _ID_LAST = 0xB0C0, 0xB0C5
_ENABLED: Final = 0x01
_FORMATS: Final = {
    16: PixelFormat.RG16,
    24: PixelFormat.RG24,
    32: PixelFormat.XR24,
}
# 8 bits a pixel is left out: the palette is behind the DAC's ports, where reading it would move the guest's
# own read index. So is 15, which QEMU draws by itself, its three low bits zero and white 0xF8F8F8, where it
# lets pixman widen 16 (hw/display/vga.c, vga_draw_line15): what it shows is asked for.


@dataclass(frozen=True, slots=True)
class Dispi:
    """The registers as read (Bochs: iodev/display/vga.h, VBE_DISPI_INDEX_*).

    Args:
        id: 0xB0C0 to 0xB0C5 on real hardware of this kind.
        width: Pixels.
        height: Pixels.
        bpp: Bits a pixel.
        enable: Bit 0: the DISPI mode is on.
        virt_width: Pixels from one row to the next.
        x_offset: Pixels of each row left of the scanout.
        y_offset: Rows above the scanout.
    """

    id: int
    width: int
    height: int
    bpp: int
    enable: int
    virt_width: int
    x_offset: int
    y_offset: int

    @classmethod
    def from_words(cls, words: list[int]) -> Dispi:
        """From the registers in order of their index.

        Raises:
            ValueError: there are not `COUNT` of them.
        """
        if len(words) != COUNT:
            raise ValueError(f"{len(words)} DISPI registers, not {COUNT}")
        ident, width, height, bpp, enable, _bank, virt_width, _virt_height, x_offset, y_offset, _memory = (
            words
        )
        return cls(ident, width, height, bpp, enable, virt_width, x_offset, y_offset)

    @property
    def present(self) -> bool:
        """Whether these are DISPI registers at all, and not an unplaced BAR."""
        return _ID_FIRST <= self.id <= _ID_LAST

    def mode(self, extent_bytes: int) -> Mode | None:
        """The scanout in video RAM, or None where there is no linear one that fits.

        Args:
            extent_bytes: Of the video RAM.
        """
        pixel_format = _FORMATS.get(self.bpp)
        if not self.present or not self.enable & _ENABLED or pixel_format is None:
            return None
        stride = max(self.virt_width, self.width) * pixel_format.bytes_per_pixel
        # QEMU keeps the scanout's start in units of four bytes (hw/display/vga.c, vbe_fixup_regs).
        offset = (self.y_offset * stride + self.x_offset * pixel_format.bytes_per_pixel) & ~3
        try:
            return Mode(self.width, self.height, stride, pixel_format, offset).fit(extent_bytes)
        except ModeError:
            return None
