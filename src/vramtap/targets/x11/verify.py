"""Compares what an X server says its root window shows with a piece of the server's memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import xcffib
import xcffib.xfixes
import xcffib.xproto

from vramtap.display.mode import PixelFormat
from vramtap.display.region import Rect
from vramtap.targets.x11.framebuffer_search import Candidate, read_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vramtap.memory.process import ProcessSpace
    from vramtap.targets.x11.connection import XConnection

SAMPLE_ROWS: Final = 32
"""Most rows that are compared. They are spread over the height and include the first and the last."""
ATTEMPTS: Final = 5
"""Most comparisons of one candidate. A screen that changes all the time may need several."""
_Z_PIXMAP: Final = 2
_ALL_PLANES: Final = 0xFFFFFFFF
_TRUE_COLOR: Final = 4
_DIRECT_COLOR: Final = 5
_XFIXES_MAJOR: Final = 2
"""Version that vramtap requests. Cursor images exist since 1, and every server of this century has 2."""

_FORMATS: Final = {
    (32, 0xFF0000, 0xFF00, 0xFF): PixelFormat.XR24,
    (32, 0xFF, 0xFF00, 0xFF0000): PixelFormat.XB24,
    (24, 0xFF0000, 0xFF00, 0xFF): PixelFormat.RG24,
    (16, 0xF800, 0x7E0, 0x1F): PixelFormat.RG16,
    (16, 0x7C00, 0x3E0, 0x1F): PixelFormat.XR15,
}

_xfixes: Final[Any] = xcffib.xfixes
_ProtocolError: Final[Any] = xcffib.ProtocolException


@dataclass(frozen=True, slots=True)
class RootFormat:
    """The format of the root window's pixels.

    Args:
        depth: Bits of a pixel that have a meaning.
        bits_per_pixel: Bits that a pixel takes.
        masks: Its red, green and blue bits; zeros if a colour map gives the colours.
        pixel_format: The same as a `PixelFormat`; None if vramtap does not support it.
        fixed_colors: Whether the masks give the colours of 8-bit pixels.
    """

    depth: int
    bits_per_pixel: int
    masks: tuple[int, int, int]
    pixel_format: PixelFormat | None
    fixed_colors: bool


def root_format(connection: XConnection) -> RootFormat:
    """Return the format of the root window's pixels, from the server's greeting."""
    setup, screen = connection.xcb.get_setup(), connection.screen
    visuals = [visual for depth in screen.allowed_depths for visual in depth.visuals]
    visual = next(visual for visual in visuals if visual.visual_id == screen.root_visual)
    depth, kind = int(screen.root_depth), int(visual._class)
    bits = next(int(f.bits_per_pixel) for f in setup.pixmap_formats if f.depth == depth)
    masks = (int(visual.red_mask), int(visual.green_mask), int(visual.blue_mask))
    found = None
    if kind == _TRUE_COLOR and bits > 8:
        found = _FORMATS.get((bits, *masks))
    elif bits == 8 and kind != _DIRECT_COLOR:
        found = PixelFormat.C8
    return RootFormat(depth, bits, masks, found, fixed_colors=kind == _TRUE_COLOR)


def root_size(connection: XConnection) -> tuple[int, int]:
    """Return the current width and height of the root window in pixels."""
    geometry = connection.xcb.core.GetGeometry(connection.root).reply()
    return int(geometry.width), int(geometry.height)


def shows_root(connection: XConnection, space: ProcessSpace, candidate: Candidate, depth: int) -> bool:
    """Return whether the pixels after a header are those of the root window.

    vramtap reads a row from memory before and after it asks the server for the row. If the row did not change
    meanwhile, all three must agree. The cursor is left out, because the server draws it into the pixels but
    not into its answer.

    Args:
        connection: Connection to the server.
        space: Memory of the server.
        candidate: The header.
        depth: Depth of the root window, bits.

    Returns:
        True if no stable row differs and at least one row was stable.
    """
    for _ in range(ATTEMPTS):
        stable, equal = _compare(connection, space, candidate, depth)
        if stable and equal:
            return True
    return False


def _compare(
    connection: XConnection, space: ProcessSpace, candidate: Candidate, depth: int
) -> tuple[int, bool]:
    """Compare once; return how many pixels could be compared, and whether all of them are equal."""
    header, cursor = candidate.header, _cursor(connection)
    width, height = root_size(connection)
    if width > header.width or height > header.height:
        # Xvfb's screens only shrink, so this is one part of a root window that Xinerama made of several.
        return 0, False
    stable = 0
    row_bytes = width * header.bits_per_pixel // 8
    for y in np.unique(np.linspace(0, height - 1, SAMPLE_ROWS).astype(int)).tolist():
        address = candidate.address + header.pixels_offset + y * header.stride_bytes
        before = read_bytes(space, address, row_bytes)
        image = connection.xcb.core.GetImage(_Z_PIXMAP, connection.root, 0, y, width, 1, _ALL_PLANES).reply()
        shown = bytes(image.data.buf())[:row_bytes]
        if len(shown) < row_bytes or before != read_bytes(space, address, row_bytes):
            continue
        counts = np.ones(width, bool)
        if cursor.y <= y < cursor.bottom:
            counts[max(0, cursor.x) : max(0, cursor.right)] = False
        differs = _pixels(before, header.bits_per_pixel, depth) != _pixels(
            shown, header.bits_per_pixel, depth
        )
        if (differs & counts).any():
            return stable, False
        stable += int(counts.sum())
    return stable, True


def _pixels(row: bytes, bits_per_pixel: int, depth: int) -> NDArray[np.uint32]:
    """Return the meaningful bits of each pixel, shape `(width,)`."""
    parts = np.frombuffer(row, np.uint8).reshape(-1, bits_per_pixel // 8).astype(np.uint32)
    values = sum(parts[:, index] << np.uint32(8 * index) for index in range(parts.shape[1]))
    return np.asarray(values, np.uint32) & np.uint32((1 << depth) - 1)


def _cursor(connection: XConnection) -> Rect:
    """Return where the server draws its cursor; empty if it has none or does not tell."""
    core = connection.xcb.core
    name = b"XFIXES"
    if not core.QueryExtension(len(name), name).reply().present:
        return Rect(0, 0, 0, 0)
    fixes = connection.xcb(_xfixes.key)
    try:
        fixes.QueryVersion(_XFIXES_MAJOR, 0).reply()
        image = fixes.GetCursorImage().reply()
    except _ProtocolError:
        # BadCursor: the sprite is not on any screen yet.
        return Rect(0, 0, 0, 0)
    left, top = int(image.x) - int(image.xhot), int(image.y) - int(image.yhot)
    return Rect(left, top, int(image.width), int(image.height))
