"""The contract of `Tracker`, run on the memory of a real Xen domain."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contract.test_trackers import (
    PAGES,
    Memory,
    consume_at_random,
    test_first_answer_for_each_window_is_all_dirty,
    test_first_answer_is_all_dirty_and_the_next_is_empty,
    test_pages_outside_the_window_are_kept,
    test_restored_pages_are_reported_again,
    test_stopped_tracker_raises_and_can_be_started_again,
    test_write_before_the_first_collect_is_not_lost,
    test_written_page_is_reported_once,
)
from vramtap.linux.schedstat import SchedstatProbe
from vramtap.memory.extent import Extent
from vramtap.memory.foreign import XenSpace
from vramtap.trackers.compare import CompareTracker
from vramtap.trackers.xen.tracker import XenTracker
from vramtap.xen import domains
from vramtap.xen.foreignmemory import ForeignMemory
from vramtap.xen.xenstore import Xenstore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vramtap.trackers.base import Tracker
    from xen.dom0.driver import BootSectorGuest

__all__ = [
    "test_first_answer_for_each_window_is_all_dirty",
    "test_first_answer_is_all_dirty_and_the_next_is_empty",
    "test_pages_outside_the_window_are_kept",
    "test_restored_pages_are_reported_again",
    "test_stopped_tracker_raises_and_can_be_started_again",
    "test_write_before_the_first_collect_is_not_lost",
    "test_written_page_is_reported_once",
]

pytestmark = pytest.mark.short


def stopped_clock() -> XenTracker:
    """Return a tracker whose clock stands still, so that it never repeats its timed rescans."""
    return XenTracker(clock=lambda: 0.0)


@pytest.fixture(params=[stopped_clock, CompareTracker], ids=["xen", "compare"])
def tracked(request: pytest.FixtureRequest, machine: BootSectorGuest) -> Iterator[tuple[Tracker, Memory]]:
    make: Callable[[], Tracker] = request.param
    machine.fill(0, PAGES * 1024, 0)
    with Xenstore() as store:
        domain = domains.domain(store, machine.domid)
    assert domain is not None
    space = XenSpace(ForeignMemory(), PAGES, machine.name, domain.uuid)
    space.model = SchedstatProbe(domain.model_pid)
    assert space.place(machine.domid, machine.lfb_gfn)

    def write(offset: int, value: int) -> None:
        # The guest can only write 32 bits at a time.
        at = offset & ~3
        word = bytearray(machine.read_vram(at, 4))
        word[offset - at] = value
        machine.fill(at, 1, int.from_bytes(word, "little"))

    tracker = make()
    tracker.start(Extent(space, 0, PAGES))
    yield tracker, Memory(Extent(space, 0, PAGES), write)
    tracker.stop()
    space.close()


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_consumers_match_the_memory(tracked: tuple[Tracker, Memory], data: st.DataObject) -> None:
    consume_at_random(tracked, data)
