"""What the page shows of a tap: its statistics, its mode as text, and its picture."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from vramtap.servers.web.stats_feed import Sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vramtap.tap.tap import Tap


def sample(tap: Tap) -> Sample:
    """Return the statistics of a tap as they are now."""
    stats = tap.stats
    return Sample(
        mode=mode_text(tap),
        tracker=stats.tracker,
        why=stats.tracker_why,
        scan_us=stats.scan_us,
        dirty_pages=stats.dirty_pages,
        bytes_read=stats.bytes_read,
        updates=stats.updates,
        viewers=tap.viewers,
        ended=tap.closed,
    )


def mode_text(tap: Tap) -> str:
    """Return the mode for people: `1024x768 XR24`."""
    height, width = tap.screen.pixels.shape
    if not width or not height:
        return "no picture yet"
    mode = tap.screen.mode
    return f"{width}x{height} {mode.format.fourcc if mode is not None else 'without framebuffer'}"


async def picture(tap: Tap, timeout_s: float) -> NDArray[np.uint32]:
    """Scan the target and return a copy of the screen.

    Args:
        tap: The tap.
        timeout_s: Time limit for the scan, seconds.

    Returns:
        Pixels of shape `(height, width)`, `0x00RRGGBB`.

    Raises:
        TargetGone: The target has ended.
        TimeoutError: The scan took longer than the limit.
    """
    async with asyncio.timeout(timeout_s):
        await tap.refresh()
    return tap.screen.pixels.copy()
