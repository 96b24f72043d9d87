"""Reference for the display tests: a slow decoder that reads a scanout pixel by pixel, and a fake space."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np
from hypothesis import strategies as st

from vramtap.display.mode import Mode, PixelFormat
from vramtap.display.region import Rect
from vramtap.errors import KernelError
from vramtap.memory.extent import Extent
from vramtap.pages import PAGE_SIZE, PageRuns

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


def widen(value: int, bits: int) -> int:
    """Widen a channel of 5 or 6 bits to 8: repeat its bits, and keep the highest 8."""
    text = f"{value:0{bits}b}"
    return int((text + text)[:8], 2)


def decode_pixel(data: bytes, mode: Mode) -> int:
    """Return the color `0x00RRGGBB` of one pixel's bytes."""
    word = int.from_bytes(data, "little")
    match mode.format:
        case PixelFormat.XR24 | PixelFormat.AR24 | PixelFormat.RG24:
            return data[2] << 16 | data[1] << 8 | data[0]
        case PixelFormat.XB24:
            return data[0] << 16 | data[1] << 8 | data[2]
        case PixelFormat.RG16:
            return widen(word >> 11, 5) << 16 | widen(word >> 5 & 63, 6) << 8 | widen(word & 31, 5)
        case PixelFormat.XR15:
            return widen(word >> 10 & 31, 5) << 16 | widen(word >> 5 & 31, 5) << 8 | widen(word & 31, 5)
        case PixelFormat.C8:
            assert mode.palette is not None
            return mode.palette[word]


def decode(memory: bytes | bytearray, mode: Mode) -> NDArray[np.uint32]:
    """Return all pixels of a scanout, shape `(height, width)`."""
    size = mode.format.bytes_per_pixel
    pixels = np.zeros((mode.height, mode.width), dtype=np.uint32)
    for y in range(mode.height):
        for x in range(mode.width):
            at = mode.offset_bytes + y * mode.stride_bytes + x * size
            pixels[y, x] = decode_pixel(bytes(memory[at : at + size]), mode)
    return pixels


def painted(width: int, height: int, rects: list[Rect] | tuple[Rect, ...]) -> NDArray[np.int64]:
    """Return how many of the rects hold each pixel. Fail if a rect is not inside the screen."""
    count = np.zeros((height, width), dtype=np.int64)
    for rect in rects:
        assert Rect(0, 0, width, height).contains(rect)
        assert rect.area > 0
        count[rect.slices] += 1
    return count


class FakeSpace:
    """Address space in a bytearray. It counts the reads of each page, and can inject read errors."""

    events = None
    frames = None

    def __init__(self, pages: int, filler: random.Random) -> None:
        self.name = "fake"
        self.pid: int | None = None
        self.bytes_read = 0
        self.memory = bytearray(filler.randbytes(pages * PAGE_SIZE))
        self.reads = [0] * pages
        self.fail_after_pages: int | None = None
        self.after_page: Callable[[int], None] | None = None

    @property
    def extent(self) -> Extent:
        return Extent(self, 0, len(self.reads))

    def read_runs(self, address: int, runs: PageRuns, into: NDArray[np.uint8], base_page: int) -> None:
        assert address == 0
        for first, last in runs:
            for page in range(first, last):
                if self.fail_after_pages is not None:
                    if self.fail_after_pages == 0:
                        raise KernelError("read", f"page {page}", 14)
                    self.fail_after_pages -= 1
                data = np.frombuffer(bytes(self.memory[page * PAGE_SIZE : (page + 1) * PAGE_SIZE]), np.uint8)
                into[(page - base_page) * PAGE_SIZE : (page + 1 - base_page) * PAGE_SIZE] = data
                self.reads[page] += 1
                self.bytes_read += PAGE_SIZE
                if self.after_page is not None:
                    self.after_page(page)


PALETTES = st.integers(0, 2**32 - 1).map(
    lambda seed: tuple(random.Random(seed).randrange(1 << 24) for _ in range(256))
)


@st.composite
def modes(draw: st.DrawFn, max_width: int = 40, max_height: int = 30, max_padding: int = 6000) -> Mode:
    """Return any mode: odd offsets, rows longer than a page, padding longer than a page."""
    pixel_format = draw(st.sampled_from(PixelFormat))
    width = draw(st.integers(1, max_width))
    padding = draw(st.one_of(st.just(0), st.integers(0, 9), st.integers(0, max_padding)))
    return Mode(
        width=width,
        height=draw(st.integers(1, max_height)),
        stride_bytes=width * pixel_format.bytes_per_pixel + padding,
        format=pixel_format,
        offset_bytes=draw(st.one_of(st.just(0), st.integers(0, 3 * PAGE_SIZE))),
        palette=draw(PALETTES) if pixel_format is PixelFormat.C8 else None,
    )
