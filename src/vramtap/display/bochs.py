"""Bochs DISPI: the registers of QEMU's and Bochs' VGA. They are guest input, so they are checked first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vramtap.display.mode import Mode, PixelFormat
from vramtap.errors import ModeError

MMIO_OFFSET: Final = 0x500
"""Offset of the DISPI registers in the MMIO BAR, bytes (QEMU: docs/specs/standard-vga)."""
COUNT: Final = 11
"""Number of 16-bit registers: index 0 (id) to 10 (video memory in 64 KiB units)."""

_ID_FIRST, _ID_LAST = 0xB0C0, 0xB0C5
_ENABLED: Final = 0x01
_FORMATS: Final = {
    16: PixelFormat.RG16,
    24: PixelFormat.RG24,
    32: PixelFormat.XR24,
}
# 8 bits per pixel are not supported. The palette is behind the DAC's ports, and to read it there would
# change the guest's own read index.
# 15 bits per pixel are not supported either. QEMU draws them itself and leaves the three low bits of each
# channel zero, so white is 0xF8F8F8 (hw/display/vga.c, vga_draw_line15). It draws 16 bits through pixman,
# which repeats the high bits. For these modes vramtap gets the picture from QEMU with screendump.


@dataclass(frozen=True, slots=True)
class Dispi:
    """The DISPI registers, as read (Bochs: iodev/display/vga.h, VBE_DISPI_INDEX_*).

    Args:
        id: 0xB0C0 to 0xB0C5 on a device of this kind.
        width: Visible width, pixels.
        height: Visible height, pixels.
        bpp: Bits per pixel.
        enable: Bit 0: the DISPI mode is on.
        virt_width: Distance from one row to the next, pixels.
        x_offset: Columns left of the scanout, pixels.
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
        """Return the registers.

        Args:
            words: Their values in the order of the index.

        Raises:
            ValueError: there are not `COUNT` values.
        """
        if len(words) != COUNT:
            raise ValueError(f"{len(words)} DISPI registers, not {COUNT}")
        ident, width, height, bpp, enable, _bank, virt_width, _virt_height, x_offset, y_offset, _memory = (
            words
        )
        return cls(ident, width, height, bpp, enable, virt_width, x_offset, y_offset)

    @property
    def present(self) -> bool:
        """Whether the id is one of a DISPI device. It is not if the BAR is not mapped."""
        return _ID_FIRST <= self.id <= _ID_LAST

    def mode(self, extent_bytes: int) -> Mode | None:
        """Return the mode of the scanout, or None if there is no linear scanout that fits the video RAM.

        Args:
            extent_bytes: Size of the video RAM, bytes.
        """
        pixel_format = _FORMATS.get(self.bpp)
        if not self.present or not self.enable & _ENABLED or pixel_format is None:
            return None
        stride = max(self.virt_width, self.width) * pixel_format.bytes_per_pixel
        # QEMU keeps the start of the scanout in units of four bytes (hw/display/vga.c, vbe_fixup_regs).
        offset = (self.y_offset * stride + self.x_offset * pixel_format.bytes_per_pixel) & ~3
        try:
            return Mode(self.width, self.height, stride, pixel_format, offset).fit(extent_bytes)
        except ModeError:
            return None
