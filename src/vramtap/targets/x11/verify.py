"""What an X server says its root window shows, and whether a piece of its memory is that picture."""

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
    from vramtap.targets.x11.connection import Link

SAMPLE_ROWS: Final = 32
"""Rows compared at most, spread over the height, the first and the last among them."""
ATTEMPTS: Final = 5
"""Comparisons made before a screen that changes all the time is given up."""
_Z_PIXMAP: Final = 2
_ALL_PLANES: Final = 0xFFFFFFFF
_TRUE_COLOR: Final = 4
_DIRECT_COLOR: Final = 5
_XFIXES_MAJOR: Final = 2
"""Cursor images are there since version 1; 2 is the first that every server of this century has."""

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
    """How the root window's pixels are made.

    Args:
        depth: Bits of a pixel that count.
        bits_per_pixel: That it takes.
        masks: Its red, green and blue bits; zeros where a colour map says.
        pixel_format: The same, as we call it; None for what we cannot show.
        fixed_colors: Whether the colours of 8-bit pixels follow from the masks.
    """

    depth: int
    bits_per_pixel: int
    masks: tuple[int, int, int]
    pixel_format: PixelFormat | None
    fixed_colors: bool


def root_format(link: Link) -> RootFormat:
    """How the root window's pixels are made, from the server's greeting."""
    setup, screen = link.connection.get_setup(), link.screen
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


def root_size(link: Link) -> tuple[int, int]:
    """Width and height of the root window now, in pixels."""
    geometry = link.connection.core.GetGeometry(link.root).reply()
    return int(geometry.width), int(geometry.height)


def shows_root(link: Link, space: ProcessSpace, candidate: Candidate, depth: int) -> bool:
    """Whether the pixels after a header are the root window.

    A row is read from memory before and after the server is asked for it; if it did not change meanwhile,
    all three must agree. The cursor is left out: the server keeps it in the pixels, but not in its answer.

    Args:
        link: To the server.
        space: Its memory.
        candidate: The header.
        depth: Of the root window, bits.

    Returns:
        True if no stable row differs and at least one was seen.
    """
    for _ in range(ATTEMPTS):
        stable, equal = _compare(link, space, candidate, depth)
        if stable and equal:
            return True
    return False


def _compare(link: Link, space: ProcessSpace, candidate: Candidate, depth: int) -> tuple[int, bool]:
    """One comparison; returns how many pixels could be compared, and whether all of them were equal."""
    header, cursor = candidate.header, _cursor(link)
    width, height = root_size(link)
    if width > header.width or height > header.height:
        # Xvfb's screens only shrink: this is part of a root window that Xinerama made of several.
        return 0, False
    stable = 0
    row_bytes = width * header.bits_per_pixel // 8
    for y in np.unique(np.linspace(0, height - 1, SAMPLE_ROWS).astype(int)).tolist():
        address = candidate.address + header.pixels_offset + y * header.stride_bytes
        before = read_bytes(space, address, row_bytes)
        image = link.connection.core.GetImage(_Z_PIXMAP, link.root, 0, y, width, 1, _ALL_PLANES).reply()
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
    """The bits that count, shape `(width,)`."""
    parts = np.frombuffer(row, np.uint8).reshape(-1, bits_per_pixel // 8).astype(np.uint32)
    values = sum(parts[:, index] << np.uint32(8 * index) for index in range(parts.shape[1]))
    return np.asarray(values, np.uint32) & np.uint32((1 << depth) - 1)


def _cursor(link: Link) -> Rect:
    """Where the server draws its cursor; empty where it has none or does not say."""
    core = link.connection.core
    name = b"XFIXES"
    if not core.QueryExtension(len(name), name).reply().present:
        return Rect(0, 0, 0, 0)
    fixes = link.connection(_xfixes.key)
    try:
        fixes.QueryVersion(_XFIXES_MAJOR, 0).reply()
        image = fixes.GetCursorImage().reply()
    except _ProtocolError:
        # BadCursor: the sprite is not on any screen yet.
        return Rect(0, 0, 0, 0)
    left, top = int(image.x) - int(image.xhot), int(image.y) - int(image.yhot)
    return Rect(left, top, int(image.width), int(image.height))
