"""Taps of the targets in `faulty`, with trackers in plain Python."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from support.faulty import ArmedLog, FaultyTarget, SoftLog
from support.model_client import ModelClient
from vramtap.tap.tap import Tap
from vramtap.trackers.choose import Choice, TrackerOptions
from vramtap.trackers.compare import CompareTracker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from vramtap.memory.extent import Extent
    from vramtap.trackers.base import Tracker

TRACKERS = ("softlog", "compare")


@contextlib.asynccontextmanager
async def tapped(
    target: FaultyTarget, tracker: str = "softlog", on_collect: Callable[[], None] = lambda: None
) -> AsyncIterator[tuple[Tap, Tracker]]:
    """Open a tap of this target with this tracker; release both at the end."""
    made: Tracker = CompareTracker()
    if tracker in ("softlog", "armed"):
        made = (SoftLog if tracker == "softlog" else ArmedLog)(target, on_collect)

    def choose(name: str, extent: Extent, *, allow_filtered: bool, options: TrackerOptions | None) -> Choice:
        made.start(extent)
        return Choice(made, name)

    async with Tap(target, choose=choose) as tap:
        yield tap, made
    assert target.attached == target.released == 1


@contextlib.asynccontextmanager
async def followed(target: FaultyTarget, tracker: str = "softlog") -> AsyncIterator[tuple[Tap, ModelClient]]:
    async with tapped(target, tracker) as (tap, _), ModelClient(tap) as client:
        await client.shows(target.truth)
        yield tap, client
