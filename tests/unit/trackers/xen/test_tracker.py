"""XenTracker, case by case: its calls to the hypervisor, its answers and its rescans."""

from __future__ import annotations

import errno
import threading
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from support.fake_xen.host import CR0_WP, VRAM_FRAME
from support.xen_domain import DOMID, Make, reason, take_first
from vramtap.errors import KernelError, VramtapError
from vramtap.pages import NO_PAGES, PageRuns
from vramtap.trackers.base import AllDirty, Reason
from vramtap.trackers.xen import tracker as module
from vramtap.trackers.xen.rescan_timer import MAX_INTERVAL_S, MIN_INTERVAL_S
from vramtap.trackers.xen.tracker import XenTracker
from vramtap.xen.devicemodel import MAX_PAGES

if TYPE_CHECKING:
    from collections.abc import Callable

PAGES = 64
TRACK = "xendevicemodel_track_dirty_vram"


@pytest.mark.parametrize("hap", [True, False])
def test_written_page_is_reported_once(make: Make, hap: bool) -> None:
    domain = make(hap=hap)
    tracker = domain.tracker()
    take_first(tracker)
    assert tracker.shadow is not hap
    for pages in ([0], [PAGES - 1], [1, 2, 40], list(range(PAGES))):
        for page in pages:
            domain.write(page)
        assert tracker.collect() == PageRuns.from_pages(pages)
        assert tracker.collect() == NO_PAGES
    domain.write(5)
    domain.write(50)
    assert tracker.collect((0, 10)) == PageRuns.from_pages([5])
    assert tracker.collect() == PageRuns.from_pages([50]), "kept for a later collect"
    tracker.restore(PageRuns([(3, 5)]))
    assert tracker.collect() == PageRuns([(3, 5)])


def test_qemus_own_range_is_never_tracked(make: Make) -> None:
    domain = make()
    tracker = domain.tracker()
    take_first(tracker)
    calls = domain.xen.log_calls
    assert (calls.first, calls.frames) == (VRAM_FRAME, PAGES + 1)
    domain.write(7)
    domain.xen.read_log(DOMID, VRAM_FRAME, PAGES)
    domain.write(9)
    assert tracker.collect() == PageRuns.full(PAGES), "the log was started again, so all pages"
    assert domain.xen.log_calls.full_reads == 0


def test_another_callers_range_is_noticed_under_shadow_paging(make: Make) -> None:
    domain = make(hap=False)
    tracker = domain.tracker()
    take_first(tracker)
    domain.write(7)
    domain.xen.read_log(DOMID, VRAM_FRAME, PAGES)
    assert reason(tracker.collect()) is Reason.TAKEN
    domain.write(8)
    assert tracker.collect() == PageRuns.from_pages([8])


def test_range_left_by_a_killed_vramtap_is_stopped_first(make: Make) -> None:
    domain = make(hap=False)
    domain.xen.read_log(DOMID, VRAM_FRAME, PAGES + 1)
    tracker = domain.tracker()
    take_first(tracker)
    assert tracker.shadow


def test_only_the_window_is_tracked(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SPARE_PAGES", 4)
    domain = make()
    tracker = domain.tracker()
    assert reason(tracker.collect((8, 24))) is Reason.FIRST
    calls = domain.xen.log_calls
    assert (calls.first, calls.frames) == (VRAM_FRAME + 8, 16)
    assert tracker.collect((10, 14)) == NO_PAGES
    assert domain.xen.log_calls.frames == 16, "the range is short enough to be kept"
    assert reason(tracker.collect((10, 12))) is Reason.FIRST
    assert domain.xen.log_calls.frames == 2
    assert reason(tracker.collect((10, 13))) is Reason.FIRST


def test_window_longer_than_one_call_raises(make: Make) -> None:
    domain = make(MAX_PAGES + 1)
    tracker = domain.tracker()
    for window, frames in ((None, MAX_PAGES + 2), ((0, MAX_PAGES + 1), MAX_PAGES + 2)):
        with pytest.raises(VramtapError, match=rf"{frames} pages in one call: .* at most 32768 .*compare\)"):
            tracker.collect(window)
    assert reason(tracker.collect((1, MAX_PAGES + 1))) is Reason.FIRST
    domain.write(MAX_PAGES)
    assert tracker.collect((1, MAX_PAGES + 1)) == PageRuns.from_pages([MAX_PAGES])


def test_whole_video_ram_needs_one_more_frame(make: Make) -> None:
    with pytest.raises(VramtapError, match="32769 pages in one call"):
        make(MAX_PAGES).tracker().collect()


@pytest.mark.parametrize("after", [False, True])
def test_failed_fetch_makes_all_pages_dirty(make: Make, after: bool) -> None:
    domain = make()
    tracker = domain.tracker()
    take_first(tracker)
    domain.write(3)
    domain.xen.fail(TRACK, errno.EIO, times=1, after=after)
    with pytest.raises(KernelError, match=f"{TRACK} domain 3 frames 0xf0000-0xf0041: EIO"):
        tracker.collect()
    assert reason(tracker.collect((0, 32))) is Reason.TAKEN
    assert reason(tracker.collect((32, 64))) is Reason.TAKEN
    domain.write(4)
    assert tracker.collect() == PageRuns.from_pages([4])


def test_moved_video_ram_is_followed(make: Make) -> None:
    domain = make()
    tracker = domain.tracker()
    take_first(tracker)
    domain.xen.place(DOMID, 0xE_0000)
    assert domain.space.place(DOMID, 0xE_0000)
    assert reason(tracker.collect()) is Reason.REMAPPED
    assert domain.xen.log_calls.first == 0xE_0000
    domain.write(6)
    assert tracker.collect() == PageRuns.from_pages([6])
    domain.space.unplace()
    reads = domain.xen.log_calls.reads
    assert reason(tracker.collect()) is Reason.UNMAPPED
    assert domain.xen.log_calls.reads == reads
    assert domain.space.place(DOMID, 0xE_0000)
    assert reason(tracker.collect()) is Reason.REMAPPED


def test_domain_that_ends_is_read_once_more_and_its_reboot_followed(make: Make) -> None:
    domain = make()
    tracker = domain.tracker()
    take_first(tracker)
    domain.write(3)
    domain.xen.destroy(DOMID)
    assert reason(tracker.collect()) is Reason.UNMAPPED
    reads = domain.xen.log_calls.reads
    assert tracker.collect() == NO_PAGES
    assert domain.xen.log_calls.reads == reads, "the domain has ended"
    domain.reboot_after_end()
    assert reason(tracker.collect()) is Reason.REMAPPED
    assert domain.xen.log_calls.domid == DOMID + 1
    domain.write(3)
    assert tracker.collect() == PageRuns.from_pages([3])


# Writes that no log records


def test_running_device_model_causes_four_rescans_a_second(make: Make) -> None:
    domain = make()
    tracker = domain.tracker()
    take_first(tracker)
    domain.now_s += MIN_INTERVAL_S
    assert tracker.collect() == NO_PAGES, "the device model has not run"
    rescans = []
    began_s = domain.now_s
    for tick in range(33):
        domain.now_s = began_s + tick / 32
        domain.draw(tick)
        answer = tracker.collect()
        assert tracker.wants_feedback is isinstance(answer, AllDirty)
        if tracker.wants_feedback:
            assert reason(answer) is Reason.UNLOGGED
            rescans.append(tick / 32)
            tracker.feedback(domain.read(answer, (0, PAGES)))
            assert tracker.idle_after_s == float("inf")
    assert rescans == [0, 0.25, 0.5, 0.75, 1.0]


def test_rescans_without_changes_fall_to_one_a_second(make: Make) -> None:
    domain = make()
    tracker = domain.tracker()
    domain.read(tracker.collect(), (0, PAGES))
    rescans = []
    for _ in range(160):
        domain.now_s += 1 / 32
        domain.model.runs += 1
        answer = tracker.collect()
        if tracker.wants_feedback:
            rescans.append(domain.now_s)
            tracker.feedback(domain.read(answer, (0, PAGES)))
            assert tracker.idle_after_s == 0.0
    gaps = [round(after - before, 3) for before, after in pairwise(rescans)]
    assert gaps == [2 * MIN_INTERVAL_S, *[MAX_INTERVAL_S] * (len(gaps) - 1)]


def test_rescan_that_finds_only_logged_pages_counts_as_nothing_found(make: Make) -> None:
    domain = make()
    tracker = domain.tracker()
    domain.read(tracker.collect(), (0, PAGES))
    domain.now_s += MIN_INTERVAL_S
    domain.write(9)
    domain.model.runs += 1
    answer = tracker.collect()
    changed = domain.read(answer, (0, PAGES))
    assert changed == PageRuns.from_pages([9])
    tracker.feedback(changed)
    assert tracker.idle_after_s == float("inf"), "pages have changed"
    domain.now_s += MIN_INTERVAL_S
    domain.model.runs += 1
    assert tracker.collect() == NO_PAGES, "the rescan found no unlogged change: the interval is longer"
    domain.now_s += MIN_INTERVAL_S
    assert reason(tracker.collect()) is Reason.UNLOGGED


def test_rescan_of_a_window_leaves_the_rest_dirty(make: Make) -> None:
    domain = make()
    tracker = domain.tracker()
    domain.read(tracker.collect(), (0, PAGES))
    domain.now_s += MAX_INTERVAL_S
    domain.draw(40)
    assert reason(tracker.collect((0, 24))) is Reason.UNLOGGED
    assert tracker.collect((0, 24)) == NO_PAGES
    answer = tracker.collect()
    assert reason(answer) is Reason.UNLOGGED
    assert domain.read(answer, (0, PAGES)) == PageRuns.from_pages([40])
    assert tracker.collect((0, 24)) == NO_PAGES, "nothing was written since"
    assert tracker.collect() == NO_PAGES


def test_unknown_device_model_causes_regular_rescans(make: Make) -> None:
    domain = make()
    domain.space.model = None
    tracker = domain.tracker()
    assert reason(tracker.collect()) is Reason.FIRST
    answers = []
    for _ in range(8):
        domain.now_s += MIN_INTERVAL_S / 2
        answers.append(tracker.collect())
    assert [isinstance(answer, AllDirty) for answer in answers] == [False, True] * 4
    domain.model.close()


def test_clear_cr0_wp_under_shadow_paging_causes_rescans(make: Make) -> None:
    domain = make(hap=False)
    tracker = domain.tracker()
    take_first(tracker)
    domain.xen.cpu(DOMID, 0)
    for page in range(8):
        domain.now_s += MIN_INTERVAL_S
        domain.write(page)
        answer = tracker.collect()
        assert reason(answer) is Reason.UNLOGGED
        changed = domain.read(answer, (0, PAGES))
        assert page in changed
        tracker.feedback(changed)
    domain.write(20)
    domain.xen.cpu(DOMID, CR0_WP)
    domain.now_s += MAX_INTERVAL_S
    answer = tracker.collect()
    assert reason(answer) is Reason.UNLOGGED, "CR0.WP was clear until a moment ago"
    assert 20 in domain.read(answer, (0, PAGES))
    domain.now_s += MAX_INTERVAL_S
    assert tracker.collect() == NO_PAGES


def test_clear_cr0_wp_is_ignored_under_hap(make: Make) -> None:
    domain = make(hap=True)
    tracker = domain.tracker()
    take_first(tracker)
    domain.xen.cpu(DOMID, 0)
    domain.now_s += MAX_INTERVAL_S
    domain.write(4)
    assert tracker.collect() == PageRuns.from_pages([4])


@pytest.mark.parametrize("why", ["no libxenctrl", "it refuses"])
def test_unknown_cr0_wp_counts_as_clear(make: Make, why: str) -> None:
    domain = make(hap=False)
    if why == "it refuses":
        domain.xen.fail("xc_domain_hvm_getcontext_partial", errno.EPERM)
    else:
        domain.xen.absent.add("libxenctrl")
    tracker = domain.tracker()
    assert reason(tracker.collect()) is Reason.FIRST
    for _ in range(4):
        domain.now_s += MAX_INTERVAL_S
        assert reason(tracker.collect()) is Reason.UNLOGGED


# Waiting


class FakeWatch:
    """Stands in for `IdleWatch`; the test calls `poll`."""

    def __init__(self, poll: Callable[[], bool], callback: Callable[[], None], interval_s: float) -> None:
        self.poll = poll
        self.interval_s = interval_s

    def cancel(self) -> None:
        """Do nothing."""


def waiting(tracker: XenTracker, monkeypatch: pytest.MonkeyPatch) -> FakeWatch:
    monkeypatch.setattr(module, "IdleWatch", FakeWatch)
    waker = tracker.wake(lambda: None)
    assert isinstance(waker, FakeWatch)
    return waker


def test_hypervisor_is_polled_no_more_often_than_the_latency_needs(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    domain = make()
    tracker = domain.tracker(lambda clock: XenTracker(latency_s=0.5, clock=clock))
    take_first(tracker)
    waker = waiting(tracker, monkeypatch)
    calls = domain.xen.log_calls.reads
    domain.write(3)
    for _ in range(4):
        domain.now_s += 0.1
        assert not waker.poll()
    assert domain.xen.log_calls.reads == calls
    domain.now_s += 0.1
    assert waker.poll()
    assert domain.xen.log_calls.reads == calls + 1
    assert tracker.collect() == PageRuns.from_pages([3])


def test_running_device_model_causes_a_poll_at_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    domain = make()
    tracker = domain.tracker(lambda clock: XenTracker(latency_s=9.0, clock=clock))
    take_first(tracker)
    waker = waiting(tracker, monkeypatch)
    assert not waker.poll()
    domain.model.runs += 1
    domain.write(3)
    assert waker.poll()
    assert tracker.collect() == PageRuns.from_pages([3])


def test_wakes_for_pages_in_the_window_a_new_placement_and_errors(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    domain = make()
    tracker = domain.tracker()
    take_first(tracker)
    tracker.collect((0, 48))
    waker = waiting(tracker, monkeypatch)
    domain.write(50)
    domain.now_s += 1
    assert not waker.poll()
    domain.write(47)
    domain.now_s += 1
    assert waker.poll()
    assert tracker.collect((0, 48)) == PageRuns.from_pages([47])
    assert tracker.collect() == PageRuns.from_pages([50])
    waker = waiting(tracker, monkeypatch)
    domain.xen.fail(TRACK, errno.EIO, times=1)
    domain.now_s += 1
    assert waker.poll()
    assert reason(tracker.collect()) is Reason.TAKEN
    waker = waiting(tracker, monkeypatch)
    domain.space.unplace()
    assert waker.poll()


def test_collect_rescans_after_a_poll_saw_cr0_wp_clear(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The poll reads that CR0.WP was clear; the collect that follows must still rescan."""
    domain = make(hap=False)
    tracker = domain.tracker()
    take_first(tracker)
    domain.xen.cpu(DOMID, 0)
    domain.now_s += MAX_INTERVAL_S
    domain.read(tracker.collect(), (0, PAGES))
    domain.write(30)
    domain.xen.cpu(DOMID, CR0_WP)
    domain.now_s += MAX_INTERVAL_S
    waker = waiting(tracker, monkeypatch)
    domain.now_s += MAX_INTERVAL_S
    assert waker.poll()
    answer = tracker.collect()
    assert reason(answer) is Reason.UNLOGGED
    assert domain.read(answer, (0, PAGES)) == PageRuns.from_pages([30])


def test_thread_polls_and_wakes(make: Make) -> None:
    domain = make()
    tracker = XenTracker()
    tracker.start(domain.extent)
    tracker.collect()
    woken = threading.Event()
    waker = tracker.wake(woken.set)
    assert waker is not None
    domain.write(3)
    assert woken.wait(30)
    waker.cancel()
    assert tracker.collect() == PageRuns.from_pages([3])
    tracker.stop()
