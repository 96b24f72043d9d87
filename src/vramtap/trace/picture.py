"""A trace as a picture: time from left to right, pages from top to bottom, brighter for more written."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import TYPE_CHECKING, Final

import numpy as np

from vramtap.display.png import write_png
from vramtap.trace.trace import MAX_CELLS, Trace

if TYPE_CHECKING:
    from numpy.typing import NDArray

COLUMNS: Final = 1200
"""Of a picture, at most; one for each look if there are fewer."""
ROWS: Final = 400
"""Of a picture, at most; one for each page if there are fewer."""
_SHADES: Final = " .:-=+*#%@"
_STOPS: Final = (0x0B1026, 0x1F4E9E, 0x2FA6A0, 0xE8C547, 0xFFF7D6)
"""Colours from never written to written at every look; from dark to bright, so that grey tells them, too."""
_NEVER: Final = 0x000000
_MARGIN: Final = (64, 16, 40, 48)
"""Pixels left, right, above and below the map in an SVG, for its words."""
_TICKS: Final = 6


def heat(trace: Trace, columns: int = COLUMNS, rows: int = ROWS) -> NDArray[np.float64]:
    """How much of each cell was written.

    Args:
        trace: At least one look.
        columns: Of the map at most, each as many looks as the others or one more.
        rows: Of the map at most, each as many pages as the others; the last may be fewer.

    Returns:
        Shape `(rows, columns)`: written pages over all pages of the cell, summed over its looks; 0.0 to 1.0.

    Raises:
        ValueError: the trace has no look.
    """
    if not trace.intervals:
        raise ValueError("no picture of a trace without looks")
    tile_pages = max(-(-trace.pages // rows), -(-trace.pages * trace.intervals // MAX_CELLS))
    sizes = trace.tiles(tile_pages)
    columns = min(columns, trace.intervals)
    edges = np.arange(columns) * trace.intervals // columns
    looks = np.diff(edges, append=trace.intervals)
    written = np.add.reduceat(trace.dirty(tile_pages), edges, axis=0)
    return (written / (looks[:, None] * sizes[None, :])).T


def as_text(shares: NDArray[np.float64]) -> list[str]:
    """A map as lines of characters, a row a line, denser where more was written."""
    grades = np.ceil(np.cbrt(shares) * (len(_SHADES) - 1)).astype(int)
    return ["".join(_SHADES[grade] for grade in row).rstrip() for row in grades]


def as_pixels(shares: NDArray[np.float64]) -> NDArray[np.uint32]:
    """A map as pixels, a cell each, `0x00RRGGBB`. The cube root: one look in a hundred is to be seen, too."""
    at = np.cbrt(shares) * (len(_STOPS) - 1)
    pixels = np.zeros(shares.shape, dtype=np.uint32)
    for shift in (16, 8, 0):
        levels = [stop >> shift & 0xFF for stop in _STOPS]
        channel = np.interp(at, np.arange(len(_STOPS)), levels)
        pixels |= np.rint(channel).astype(np.uint32) << np.uint32(shift)
    pixels[shares == 0] = _NEVER
    return pixels


def as_svg(trace: Trace, title: str) -> str:
    """A picture of the whole trace with a title and scales, as one SVG file.

    Args:
        trace: At least one look.
        title: Any text.

    Raises:
        ValueError: the trace has no look.
    """
    shares = heat(trace)
    png = io.BytesIO()
    write_png(png, as_pixels(shares))
    # Few looks and few pages are shown large; it is one picture, stretched.
    width, height = COLUMNS, ROWS
    left, right, above, below = _MARGIN
    data = base64.b64encode(png.getvalue()).decode()
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" font-size="12" '
        f'viewBox="0 0 {left + width + right} {above + height + below}">',
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="{left}" y="24" font-size="16">{escape(title)}</text>',
        f'<image x="{left}" y="{above}" width="{width}" height="{height}" preserveAspectRatio="none" '
        f'style="image-rendering:pixelated" href="data:image/png;base64,{data}"/>',
    ]
    for tick in range(_TICKS + 1):
        share = tick / _TICKS
        x, y = left + share * width, above + share * height
        seconds, page = share * trace.duration_s, share * trace.pages
        lines += [
            f'<text x="{x:.1f}" y="{above + height + 18}" text-anchor="middle">{seconds:.1f}</text>',
            f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{page:.0f}</text>',
        ]
    lines += [
        f'<text x="{left + width / 2}" y="{above + height + 38}" text-anchor="middle">seconds</text>',
        f'<text transform="translate(14 {above + height / 2}) rotate(-90)" text-anchor="middle">page</text>',
        "</svg>",
    ]
    return "\n".join(lines) + "\n"
