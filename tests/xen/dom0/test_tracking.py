"""Sharing the hypervisor's only log of a domain with QEMU and with a second vramtap."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from vramtap.memory.extent import Extent
from vramtap.memory.foreign import XenSpace
from vramtap.pages import PageRuns
from vramtap.trackers.xen.tracker import XenTracker
from vramtap.xen.foreignmemory import ForeignMemory
from xen.dom0.driver_staged import SPARE_DISPLAYS, StagedGuest
from xen.dom0.forked import run, serving
from xen.dom0.served import Served, picture_of, viewer_at

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xen.dom0.driver import BootSectorGuest

pytest_plugins = ("xen.dom0.spare",)

ROUNDS, FILLS = 20, 15


class QemuRangeTracker(XenTracker):
    """A tracker that is broken on purpose: it requests exactly QEMU's range."""

    def _choose_range(self, first: int, last: int) -> None:
        super()._choose_range(first, last)
        self._range = first, last


def stopped() -> float:
    """A clock that stands still. It prevents timed rescans, which would hide a loss."""
    return 0.0


@pytest.fixture
def whole(spare: StagedGuest) -> Iterator[Extent]:
    """An extent of all of the video RAM, which is QEMU's range."""
    space = XenSpace(ForeignMemory(), spare.vram_pages, spare.name, f"whole of {spare.domid}")
    assert space.place(spare.domid, spare.lfb_gfn)
    yield Extent(space, 0, spare.vram_pages)
    space.close()


def count_missed(spare: StagedGuest, whole: Extent, tracker: XenTracker, hap: bool, *, at_once: bool) -> int:
    """Write fills while a client of QEMU's own VNC server is connected.

    Args:
        spare: The guest.
        whole: The extent to track.
        tracker: A tracker that is not started.
        hap: Whether the guest has hardware-assisted paging.
        at_once: Collect also before QEMU has shown the fills.

    Returns:
        The number of written pages that the tracker did not report.
    """
    chance, unseen = random.Random(7), 0
    with viewer_at(5900 + SPARE_DISPLAYS[hap]) as theirs:
        theirs.shows(picture_of(spare))
        tracker.start(whole)
        try:
            for _ in range(3):
                tracker.collect()
            for _ in range(ROUNDS):
                written: set[int] = set()
                with spare.batch():
                    for _ in range(FILLS):
                        place = chance.randrange(spare.frame_pages * 1024) * 4
                        written |= spare.fill(place, 1, chance.getrandbits(24))
                answers = [tracker.collect()] if at_once else []
                theirs.shows(picture_of(spare))
                answers.append(tracker.collect())
                for answer in answers:
                    dirty = answer if isinstance(answer, PageRuns) else PageRuns.full(whole.pages)
                    written -= {page for first, last in dirty for page in range(first, last)}
                unseen += len(written)
        finally:
            tracker.stop()
    return unseen


def test_tracker_misses_no_write_while_qemu_tracks(spare: StagedGuest, whole: Extent, hap: bool) -> None:
    assert not count_missed(spare, whole, XenTracker(clock=stopped), hap, at_once=True)


def test_tracking_qemus_own_range_loses_bits(spare: StagedGuest, whole: Extent, hap: bool) -> None:
    assert count_missed(spare, whole, QemuRangeTracker(clock=stopped), hap, at_once=False)


def test_second_tap_compares_or_is_refused(machine: BootSectorGuest, served: Served) -> None:
    url = f"xen:{machine.name}"
    complaint = run("serve", url, "--vnc", "127.0.0.1:0", "--tracker", "xen").complaint
    assert complaint.endswith("another vramtap holds it (end the other vramtap, or use --tracker compare)")
    with serving(url) as second:
        with served.viewer() as first_viewer, viewer_at(second.port()) as second_viewer:
            for at in range(4):
                machine.fill(at * 30 * 4096, 20, 0x515151 * at)
                for viewer in (first_viewer, second_viewer):
                    viewer.shows(picture_of(machine))
        ended = second.interrupt()
    assert (ended.status, ended.errors) == (0, "")
    assert second.report()["stats"]["tracker"] == "compare"
