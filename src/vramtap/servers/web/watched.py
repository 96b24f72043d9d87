"""What the web server needs of a tap, and what it reads off one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

from vramtap.servers.base import ScreenLike, TapLike, TargetLike
from vramtap.servers.web.stats_feed import Sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vramtap.display.mode import Mode

LOOK_S: Final = 10.0
"""How long a look at the target may take."""


class WatchedTarget(TargetLike, Protocol):
    """The target, as sessions and pages show it."""

    @property
    def url(self) -> str:
        """As the user wrote it."""
        ...


class WatchedScreen(ScreenLike, Protocol):
    """The screen, as sessions and pages show it."""

    @property
    def mode(self) -> Mode | None:
        """Its geometry, while it is a linear framebuffer."""
        ...


class WatchedStats(Protocol):
    """The counters of the live line: what `Sample` says of them."""

    tracker: str
    tracker_why: str
    dirty_pages: int
    bytes_read: int
    updates: int

    @property
    def scan_us(self) -> float:
        """A recent scan, microseconds."""
        ...


class WatchedTap(TapLike, Protocol):
    """A tap, as sessions and pages use it."""

    @property
    def target(self) -> WatchedTarget:
        """What is tapped."""
        ...

    @property
    def screen(self) -> WatchedScreen:
        """Its pixels."""
        ...

    @property
    def stats(self) -> WatchedStats:
        """What following it costs."""
        ...

    @property
    def closed(self) -> str | None:
        """How the target ended; None while it runs."""
        ...

    @property
    def viewers(self) -> int:
        """How many look, from anywhere."""
        ...

    async def refresh(self) -> None:
        """Bring the screen up to date.

        Raises:
            TargetGone: the target has ended.
        """
        ...


def sample(tap: WatchedTap) -> Sample:
    """The live line's counters as they stand."""
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


def mode_text(tap: WatchedTap) -> str:
    """The geometry, as people write it: `1024x768 XR24`."""
    height, width = tap.screen.pixels.shape
    if not width or not height:
        return "no picture yet"
    mode = tap.screen.mode
    return f"{width}x{height} {mode.format.fourcc if mode is not None else 'without framebuffer'}"


async def picture(tap: WatchedTap) -> NDArray[np.uint32]:
    """A copy of the screen as it is now.

    Returns:
        Shape `(height, width)`, `0x00RRGGBB`.

    Raises:
        TargetGone: the target has ended.
        TimeoutError: it took longer than `LOOK_S`.
    """
    async with asyncio.timeout(LOOK_S):
        await tap.refresh()
    return tap.screen.pixels.copy()
