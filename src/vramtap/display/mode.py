"""Mode: the geometry and pixel format of a scanout. Every value is checked on construction."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from vramtap.errors import ModeError
from vramtap.pages import PAGE_SIZE

MAX_DIMENSION: Final = 16384
"""Maximum width and height, pixels. RFB carries 16 bits. Today's GPUs and X drivers scan out at most
16384."""
MAX_PIXELS: Final = 64 * 1024 * 1024
"""Maximum number of pixels: 8192x8192. It bounds what a hostile register can make vramtap allocate
(256 MiB of XR24)."""
MAX_STRIDE_BYTES: Final = 1 << 20
"""Maximum distance between rows, bytes. Sixteen times the widest row."""


class PixelFormat(Enum):
    """Pixel format: a DRM fourcc and its bytes per pixel (kernel: include/uapi/drm/drm_fourcc.h).

    The fourcc names the channels from the highest to the lowest bit of a little-endian word. So the bytes
    of `XR24` in memory are blue, green, red, unused.
    """

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
    """Where the pixels lie in the extent, and what they mean.

    The extent is the memory that is followed, such as a video RAM. A 1024x768 screen of 32-bit pixels that
    starts at the extent's first byte, without padding between its rows:

        Mode(1024, 768, stride_bytes=4096, format=PixelFormat.XR24)

    Args:
        width: Width, pixels.
        height: Height, pixels.
        stride_bytes: Distance from one row to the next, bytes. At least one row of pixels.
        format: Pixel format.
        offset_bytes: Offset of the first pixel in the extent, bytes.
        palette: 256 colours `0x00RRGGBB` if the format is `C8`, else None.

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
            raise ModeError("mode", str(self), "a palette belongs to the format C8 and to no other")
        if self.palette is not None and len(self.palette) != 256:
            raise ModeError("mode", str(self), f"the palette has {len(self.palette)} entries, not 256")
        if self.palette is not None and not all(0 <= color <= 0xFFFFFF for color in self.palette):
            raise ModeError("mode", str(self), "a palette entry is not a 24-bit colour")

    @property
    def end_bytes(self) -> int:
        """Offset of the first byte after the last pixel, from the start of the extent."""
        return (
            self.offset_bytes
            + (self.height - 1) * self.stride_bytes
            + self.width * self.format.bytes_per_pixel
        )

    @property
    def window(self) -> tuple[int, int]:
        """Half-open range `[first, last)` of the extent's pages that hold pixels."""
        return self.offset_bytes // PAGE_SIZE, -(-self.end_bytes // PAGE_SIZE)

    def fit(self, extent_bytes: int) -> Mode:
        """Return this mode if all its pixels lie in the extent.

        Args:
            extent_bytes: Size of the extent, bytes.

        Raises:
            ModeError: the last pixel lies outside the extent.
        """
        if self.end_bytes > extent_bytes:
            raise ModeError("mode", str(self), f"needs {self.end_bytes} bytes, the extent has {extent_bytes}")
        return self

    def __str__(self) -> str:
        """Return the mode as text: `1024x768 XR24 stride 4096 offset 0`."""
        return (
            f"{self.width}x{self.height} {self.format.fourcc} "
            f"stride {self.stride_bytes} offset {self.offset_bytes}"
        )
