"""Mode: the geometry of a scanout, bounded before anything is computed from it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from vramtap.errors import ModeError
from vramtap.pages import PAGE_SIZE

MAX_DIMENSION: Final = 16384
"""Pixels a side. RFB carries 16 bits; 16384 is what GPUs and X drivers scan out at most today."""
MAX_PIXELS: Final = 64 * 1024 * 1024
"""Pixels a screen: 8192x8192. Bounds what a hostile register can make us allocate (256 MiB of XR24)."""
MAX_STRIDE_BYTES: Final = 1 << 20
"""Bytes a row, padding included: sixteen times the widest real row."""


class PixelFormat(Enum):
    """A DRM fourcc and the bytes each of its pixels takes (kernel: include/uapi/drm/drm_fourcc.h)."""

    XR24 = ("XR24", 4)
    AR24 = ("AR24", 4)
    XB24 = ("XB24", 4)
    RG16 = ("RG16", 2)
    XR15 = ("XR15", 2)
    RG24 = ("RG24", 3)
    C8 = ("C8", 1)

    def __init__(self, fourcc: str, bytes_per_pixel: int) -> None:
        self.fourcc = fourcc
        self.bytes_per_pixel = bytes_per_pixel


@dataclass(frozen=True, slots=True)
class Mode:
    """Where in the extent the pixels lie and what they mean.

    Args:
        width: Pixels.
        height: Pixels.
        stride_bytes: From one row to the next; at least a row of pixels.
        format: Pixel format.
        offset_bytes: Of the first pixel, from the start of the extent.
        palette: For `C8`: 256 entries `0x00RRGGBB`; None otherwise.

    Raises:
        ModeError: a value is out of bounds.
    """

    width: int
    height: int
    stride_bytes: int
    format: PixelFormat = PixelFormat.XR24
    offset_bytes: int = 0
    palette: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        row_bytes = self.width * self.format.bytes_per_pixel
        for what, value, low, high in (
            ("width", self.width, 1, MAX_DIMENSION),
            ("height", self.height, 1, MAX_DIMENSION),
            ("pixels", self.width * self.height, 1, MAX_PIXELS),
            ("stride", self.stride_bytes, row_bytes, MAX_STRIDE_BYTES),
            ("offset", self.offset_bytes, 0, 1 << 48),
        ):
            if not low <= value <= high:
                raise ModeError("mode", str(self), f"{what} {value} is outside {low}..{high}")
        if (self.format is PixelFormat.C8) != (self.palette is not None):
            raise ModeError("mode", str(self), "C8 and only C8 takes a palette")
        if self.palette is not None and len(self.palette) != 256:
            raise ModeError("mode", str(self), f"palette of {len(self.palette)} entries, not 256")
        if self.palette is not None and not all(0 <= color <= 0xFFFFFF for color in self.palette):
            raise ModeError("mode", str(self), "a palette entry is no 24-bit colour")

    @property
    def end_bytes(self) -> int:
        """First byte of the extent past the last pixel."""
        return (
            self.offset_bytes
            + (self.height - 1) * self.stride_bytes
            + self.width * self.format.bytes_per_pixel
        )

    @property
    def window(self) -> tuple[int, int]:
        """Half-open range of the extent's pages that hold pixels."""
        return self.offset_bytes // PAGE_SIZE, -(-self.end_bytes // PAGE_SIZE)

    def fit(self, extent_bytes: int) -> Mode:
        """This mode, if the extent holds all of it.

        Raises:
            ModeError: the last pixel lies past the extent.
        """
        if self.end_bytes > extent_bytes:
            raise ModeError("mode", str(self), f"needs {self.end_bytes} bytes, the extent has {extent_bytes}")
        return self

    def __str__(self) -> str:
        """As people write it: `1024x768 XR24 stride 4096 offset 0`."""
        return (
            f"{self.width}x{self.height} {self.format.fourcc} "
            f"stride {self.stride_bytes} offset {self.offset_bytes}"
        )
