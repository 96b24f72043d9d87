"""XenTracker: starting and stopping."""

from __future__ import annotations

import errno

import pytest

from support.fake_xen.host import VRAM_FRAME
from support.xen_domain import DOMID, Make, take_first
from vramtap.errors import NotFound, Refused, VramtapError
from vramtap.memory.extent import Extent
from vramtap.memory.own import OwnSpace
from vramtap.trackers.choose import choose
from vramtap.trackers.xen.tracker import XenTracker

PAGES = 64
TRACK = "xendevicemodel_track_dirty_vram"


def test_stop_ends_tracking_wherever_the_video_ram_is(make: Make) -> None:
    domain = make()
    for elsewhere in (VRAM_FRAME, 0xE_0000, 0):
        domain.xen.place(DOMID, VRAM_FRAME)
        assert domain.space.place(DOMID, VRAM_FRAME)
        tracker = domain.tracker()
        take_first(tracker)
        assert domain.xen.tracked(DOMID)
        domain.xen.place(DOMID, elsewhere)
        assert domain.space.place(DOMID, elsewhere) is bool(elsewhere)
        tracker.stop()
        assert not domain.xen.tracked(DOMID)
        tracker.stop()
        with pytest.raises(VramtapError, match="tracker xen: not started"):
            tracker.collect()
        assert domain.xen.handles == {"devicemodel": 0, "foreignmemory": 1, "xenstore": 0, "control": 0}


def test_stop_after_the_domain_has_ended(make: Make) -> None:
    domain = make()
    tracker = domain.tracker()
    take_first(tracker)
    domain.xen.destroy(DOMID)
    tracker.stop()
    assert domain.xen.handles["devicemodel"] == 0


def test_stop_closes_handles_even_if_it_fails(make: Make) -> None:
    domain = make()
    tracker = domain.tracker()
    take_first(tracker)
    domain.xen.fail(TRACK, errno.EPERM, times=1)
    with pytest.raises(Refused, match="domain 3, to stop"):
        tracker.stop()
    assert domain.xen.handles["devicemodel"] == domain.xen.handles["control"] == 0
    again = domain.tracker()
    take_first(again)


def test_second_tracker_of_a_domain_is_refused(make: Make) -> None:
    domain = make()
    first = domain.tracker()
    with pytest.raises(Refused, match="lock the log of domain a: another vramtap holds it"):
        domain.tracker()
    assert domain.xen.handles["devicemodel"] == 1
    first.stop()
    take_first(domain.tracker())


def test_failed_start_leaves_no_handle_open(make: Make) -> None:
    domain = make()
    domain.xen.absent.add("libxendevicemodel")
    with pytest.raises(NotFound, match="apt install libxendevicemodel1"):
        domain.tracker()
    domain.xen.absent.clear()
    domain.xen.fail("xendevicemodel_open", errno.EPERM, times=1)
    with pytest.raises(Refused):
        domain.tracker()
    assert domain.xen.handles["control"] == 0
    take_first(domain.tracker())


def test_other_memory_raises() -> None:
    space = OwnSpace()
    with pytest.raises(VramtapError, match="is not memory of a Xen domain"):
        XenTracker().start(Extent(space, 0x1000, 4))


@pytest.mark.parametrize("name", ["auto", "hybrid", "xen"])
def test_choose_takes_xen_for_a_domains_memory(make: Make, name: str) -> None:
    domain = make()
    chosen = choose(name, domain.extent)
    assert chosen.tracker.name == "xen"
    assert chosen.why == "the hypervisor logs writes"
    if name == "auto":
        other = choose(name, domain.extent)
        assert other.tracker.name == "compare"
        assert other.why.startswith("the hypervisor's log refused: lock the log of domain a")
        other.tracker.stop()
    else:
        with pytest.raises(Refused):
            choose(name, domain.extent)
    chosen.tracker.stop()
