"""Helpers of the tests of tracker `dirtybits`, on modelled and on real CPUs."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from vramtap.trackers.base import AllDirty, Reason
from vramtap.trackers.machine.dirtybits import DirtyBitsTracker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vramtap.memory.extent import Extent
    from vramtap.pages import PageRuns


@contextlib.contextmanager
def started(extent: Extent) -> Iterator[DirtyBitsTracker]:
    """A tracker after its first collect, stopped at the end of the block."""
    tracker = DirtyBitsTracker()
    tracker.start(extent)
    assert tracker.collect() == AllDirty(Reason.FIRST)
    yield tracker
    tracker.stop()


def reason(answer: PageRuns | AllDirty) -> Reason:
    """Return the reason of an answer that must be `AllDirty`."""
    assert isinstance(answer, AllDirty), answer
    return answer.reason
