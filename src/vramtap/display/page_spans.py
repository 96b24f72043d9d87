"""The pages of an extent that hold the pixels of rectangles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vramtap.pages import NO_PAGES, PAGE_SIZE, PageRuns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vramtap.display.mode import Mode
    from vramtap.display.region import Rect


def pages_of(rects: Sequence[Rect], mode: Mode) -> PageRuns:
    """Return the pages that hold a pixel of any of the rectangles.

    Args:
        rects: Rectangles inside the screen.
        mode: The screen's mode.

    Returns:
        Page runs relative to the extent.
    """
    if not rects:
        return NO_PAGES
    pixel_bytes, parts = mode.format.bytes_per_pixel, []
    for rect in rects:
        rows = np.arange(rect.y, rect.bottom, dtype=np.int64) * mode.stride_bytes + mode.offset_bytes
        first = (rows + rect.x * pixel_bytes) // PAGE_SIZE
        last = -(-(rows + rect.right * pixel_bytes) // PAGE_SIZE)
        parts.append(np.stack([first, last], axis=1))
    return PageRuns(np.concatenate(parts))
