"""CompareTracker: faults that only this tracker can have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from vramtap.errors import KernelError, VramtapError
from vramtap.memory.extent import Extent
from vramtap.pages import PAGE_SIZE, PageRuns
from vramtap.trackers.base import AllDirty
from vramtap.trackers.compare import CHUNK_PAGES, CompareTracker

if TYPE_CHECKING:
    from numpy.typing import NDArray

PAGES = 3 * CHUNK_PAGES


class Blinking:
    """Memory whose first byte follows a schedule, one value for each read, and whose reads can fail."""

    events = None
    frames = None

    def __init__(self) -> None:
        self.name = "blinking"
        self.pid: int | None = None
        self.bytes_read = 0
        self.content = np.zeros(PAGES * PAGE_SIZE, dtype=np.uint8)
        self.fail_from_page: int | None = None
        self.schedule: list[int] = []

    def read_runs(self, address: int, runs: PageRuns, into: NDArray[np.uint8], base_page: int) -> None:
        for first, last in runs:
            if self.fail_from_page is not None and last > self.fail_from_page:
                raise KernelError("read", self.name, 14)
            if first == 0 and self.schedule:
                self.content[0] = self.schedule.pop(0)
            into[(first - base_page) * PAGE_SIZE : (last - base_page) * PAGE_SIZE] = self.content[
                first * PAGE_SIZE : last * PAGE_SIZE
            ]
            self.bytes_read += (last - first) * PAGE_SIZE


def consume(tracker: CompareTracker, screen: NDArray[np.uint8]) -> None:
    """Do what a tap does: collect, then read the reported pages from `read_from`."""
    answer = tracker.collect()
    runs = PageRuns.full(PAGES) if isinstance(answer, AllDirty) else answer
    tracker.read_from.read(runs, screen)


def test_byte_that_flips_between_two_reads_is_not_lost() -> None:
    space, screen = Blinking(), np.zeros(PAGES * PAGE_SIZE, dtype=np.uint8)
    tracker = CompareTracker()
    tracker.start(Extent(space, 0, PAGES))
    consume(tracker, screen)
    # If the tracker read the target once to compare and the tap once more to show, the first read of each
    # round would return 1 and the second 2, and every comparison would find no change.
    space.schedule = [1, 2, 1, 2, 1, 2]
    for _ in range(3):
        consume(tracker, screen)
    space.schedule, space.content[0] = [], 1
    consume(tracker, screen)
    assert screen[0] == 1


def test_each_collect_reads_the_target_once() -> None:
    space, screen = Blinking(), np.zeros(PAGES * PAGE_SIZE, dtype=np.uint8)
    tracker = CompareTracker()
    tracker.start(Extent(space, 0, PAGES))
    for rounds in range(1, 4):
        space.content[:] = rounds
        consume(tracker, screen)
        assert space.bytes_read == rounds * PAGES * PAGE_SIZE


def test_pages_found_before_a_failed_read_are_reported_next_time() -> None:
    space = Blinking()
    tracker = CompareTracker()
    tracker.start(Extent(space, 0, PAGES))
    tracker.collect()
    space.content[5 * PAGE_SIZE] = 1
    space.fail_from_page = CHUNK_PAGES + 1
    with pytest.raises(KernelError):
        tracker.collect()
    space.fail_from_page = None
    assert tracker.collect() == PageRuns([(5, 6)])


def test_compare_cannot_wake_and_raises_if_not_started() -> None:
    tracker = CompareTracker()
    assert tracker.wake(lambda: None) is None
    with pytest.raises(VramtapError, match="not started"):
        _ = tracker.read_from
