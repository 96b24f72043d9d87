"""Maps of a trace: time from left to right, pages from top to bottom, brighter where more was written."""

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
"""Largest number of columns of a map; one for each interval if there are fewer."""
ROWS: Final = 400
"""Largest number of rows of a map; one for each page if there are fewer."""
_SHADES: Final = " .:-=+*#%@"
_STOPS: Final = (0x0B1026, 0x1F4E9E, 0x2FA6A0, 0xE8C547, 0xFFF7D6)
"""Colours from rarely written to written in every interval, from dark to bright, so that they differ in grey
as well."""
_NEVER: Final = 0x000000
"""Colour of cells without a write."""
_MARGIN: Final = (64, 16, 40, 48)
"""Margins of an SVG for its texts, pixels: left, right, above and below the map."""
_TICKS: Final = 6


def heat(trace: Trace, columns: int = COLUMNS, rows: int = ROWS) -> NDArray[np.float64]:
    """Return the share of each cell that was written.

    Args:
        trace: Trace with at least one interval.
        columns: Largest number of columns. The numbers of intervals of two columns differ by at most one.
        rows: Largest number of rows. All rows have the same number of pages; the last may have fewer.

    Returns:
        Shape `(rows, columns)`, 0.0 to 1.0: written pages over all pages of the cell, summed over its
        intervals.

    Raises:
        ValueError: The trace has no interval.
    """
    if not trace.intervals:
        raise ValueError("a trace without intervals has no map")
    tile_pages = max(-(-trace.pages // rows), -(-trace.pages * trace.intervals // MAX_CELLS))
    sizes = trace.tiles(tile_pages)
    columns = min(columns, trace.intervals)
    edges = np.arange(columns) * trace.intervals // columns
    lengths = np.diff(edges, append=trace.intervals)
    written = np.add.reduceat(trace.dirty(tile_pages), edges, axis=0)
    return (written / (lengths[:, None] * sizes[None, :])).T


def as_text(shares: NDArray[np.float64]) -> list[str]:
    """Return a map as lines of characters, denser where more was written."""
    grades = np.ceil(np.cbrt(shares) * (len(_SHADES) - 1)).astype(int)
    return ["".join(_SHADES[grade] for grade in row).rstrip() for row in grades]


def as_pixels(shares: NDArray[np.float64]) -> NDArray[np.uint32]:
    """Return a map as pixels, one for each cell.

    The brightness follows the cube root of the share, so that a write in one of a hundred intervals is
    visible.

    Args:
        shares: Map as returned by `heat`.

    Returns:
        Shape of `shares`, uint32, `0x00RRGGBB`.
    """
    at = np.cbrt(shares) * (len(_STOPS) - 1)
    pixels = np.zeros(shares.shape, dtype=np.uint32)
    for shift in (16, 8, 0):
        levels = [stop >> shift & 0xFF for stop in _STOPS]
        channel = np.interp(at, np.arange(len(_STOPS)), levels)
        pixels |= np.rint(channel).astype(np.uint32) << np.uint32(shift)
    pixels[shares == 0] = _NEVER
    return pixels


def as_svg(trace: Trace, title: str) -> str:
    """Return a map of the whole trace with a title and scales, as an SVG document.

    Args:
        trace: Trace with at least one interval.
        title: Title, any text.

    Raises:
        ValueError: The trace has no interval.
    """
    shares = heat(trace)
    png = io.BytesIO()
    write_png(png, as_pixels(shares))
    # A map with few cells is stretched to the same size.
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
