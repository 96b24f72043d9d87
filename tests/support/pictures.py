"""Test pictures for the encoders, and any pixel formats that a client can set."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from support.rfb_decoder import PixelFormat

Pixels = NDArray[np.uint32]

KINDS = ("solid", "two", "few", "many", "runs", "gradient", "photo", "noise", "patches")
NATIVE = PixelFormat()
RGBX = PixelFormat(shifts=(0, 8, 16))
"""The format that noVNC sets."""
RGB565 = PixelFormat(16, 16, maxima=(31, 63, 31), shifts=(11, 5, 0))
BGR233 = PixelFormat(8, 8, maxima=(7, 7, 3), shifts=(0, 3, 6))
"""The format that TigerVNC sets to save bandwidth."""
COLOUR_MAP = PixelFormat(8, 8, true_colour=False, maxima=(0, 0, 0), shifts=(0, 0, 0))
COLOUR_MAP_LAYOUT = PixelFormat(8, 8, maxima=(7, 7, 3), shifts=(5, 2, 0))
"""Layout of the indices into vramtap's colour map: three bits red, three green, two blue."""
USUAL_FORMATS = (NATIVE, RGBX, RGB565, BGR233, COLOUR_MAP, PixelFormat(big_endian=True))


def picture(kind: str, width: int, height: int, seed: int = 0) -> Pixels:
    """Return a picture `0x00RRGGBB` of shape `(height, width)`. Equal arguments give equal pictures."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    colours = random.integers(0, 1 << 24, 300, dtype=np.uint32)
    match kind:
        case "solid":
            return np.full((height, width), colours[0], np.uint32)
        case "two" | "few" | "many":
            count = {"two": 2, "few": 3 + seed % 14, "many": 17 + seed % 240}[kind]
            chosen: Pixels = np.take(colours, random.integers(0, count, (height, width)))
            return chosen
        case "runs":
            count = height * width // 100 + 50
            line = np.repeat(colours[random.integers(0, 140, count)], random.integers(1, 600, count))
            runs: Pixels = np.resize(line, (height, width))
            return runs
        case "gradient":
            mixed: Pixels = ((columns & 255) << 16 | (rows & 255) << 8 | 40).astype(np.uint32)
            return mixed
        case "photo":
            waves = (np.sin(columns / 40 + seed) * np.cos(rows / 30), np.cos(rows / 50), np.sin(columns / 70))
            grain = random.normal(0, 3, (height, width))
            out = np.zeros((height, width), np.uint32)
            for wave in waves:
                out = out << np.uint32(8) | (128 + 90 * wave + grain).clip(0, 255).astype(np.uint32)
            return out
        case "noise":
            return random.integers(0, 1 << 24, (height, width), dtype=np.uint32)
    out = np.zeros((height, width), np.uint32)
    for number, top in enumerate(range(0, height, 50)):
        for left in range(0, width, 70):
            part = out[top : top + 50, left : left + 70]
            inner = KINDS[int(random.integers(0, len(KINDS) - 1))]
            part[...] = picture(inner, part.shape[1], part.shape[0], seed + number + left)
    return out


def pictures(side: int = 150) -> st.SearchStrategy[Pixels]:
    """Return a strategy for pictures of up to `side` pixels a side."""
    sides = st.integers(1, side)
    return st.builds(picture, st.sampled_from(KINDS), sides, sides, st.integers(0, 1 << 16))


@st.composite
def pixel_formats(draw: st.DrawFn) -> PixelFormat:
    """Return any format that RFC 6143 allows: odd maxima and shifts, wide channels, channels of 0 bits."""
    if draw(st.booleans()):
        return draw(st.sampled_from(USUAL_FORMATS))
    bits = draw(st.sampled_from((8, 16, 32)))
    widths = [draw(st.integers(0, bits // 3)) for _ in range(3)]
    free = bits - sum(widths)
    shifts = [0, 0, 0]
    at = 0
    for channel in draw(st.permutations(range(3))):
        gap = draw(st.integers(0, free))
        free -= gap
        shifts[channel] = at + gap
        at += gap + widths[channel]
    maxima = [draw(st.integers(1 << width - 1, (1 << width) - 1)) if width else 0 for width in widths]
    return PixelFormat(
        bits,
        draw(st.integers(1, bits)),
        draw(st.booleans()),
        True,
        (maxima[0], maxima[1], maxima[2]),
        (shifts[0], shifts[1], shifts[2]),
    )


def channels(pixels: Pixels) -> NDArray[np.uint8]:
    """Return red, green and blue on a new last axis."""
    return np.stack([pixels >> 16 & 255, pixels >> 8 & 255, pixels & 255], axis=-1).astype(np.uint8)


def expected_values(pixels: Pixels, wanted: PixelFormat) -> NDArray[np.unsignedinteger]:
    """Return a picture's pixel values in the client's format. Intensities are rounded to the nearest one."""
    return (wanted if wanted.true_colour else COLOUR_MAP_LAYOUT).from_rgb(channels(pixels))
