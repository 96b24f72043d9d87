"""XenTracker with random guests, device models and other callers: it misses no write."""

from __future__ import annotations

import copy
import errno
import random
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from support.fake_xen.host import CR0_WP, VRAM_FRAME
from support.xen_domain import XenDomain
from vramtap.errors import VramtapError
from vramtap.pages import NO_PAGES, PageRuns
from vramtap.trackers.base import AllDirty
from vramtap.trackers.xen import tracker as module
from vramtap.trackers.xen.rescan_timer import MAX_INTERVAL_S, MIN_INTERVAL_S, RescanTimer
from vramtap.trackers.xen.tracker import CPU_STATE_INTERVAL_S, VramLog, XenTracker
from vramtap.xen.control import Control
from vramtap.xen.devicemodel import DeviceModel

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from vramtap.memory.extent import Extent

PAGES = 96
LATEST_SEEN_S = MAX_INTERVAL_S + CPU_STATE_INTERVAL_S
"""Longest time until an unlogged write is reported, if the tracker is polled."""
TRACK = "xendevicemodel_track_dirty_vram"

pages = st.integers(0, PAGES - 1)
rarely = st.integers(0, 4)
"""0 stands for a rare event."""
windows = st.one_of(
    st.just((0, PAGES)),
    st.tuples(pages, st.integers(1, PAGES)).map(lambda at: (at[0], min(PAGES, at[0] + at[1]))),
    st.sampled_from([(0, 24), (24, 48), (0, 48), (40, 60)]),
)


class Sampled(Control):
    """Keeps the last answer about CR0.WP."""

    last: bool | None = None

    def heeds_write_protection(self, domid: int) -> bool:
        type(self).last = None
        type(self).last = super().heeds_write_protection(domid)
        assert self.last is not None
        return self.last


class Tapped(RuleBasedStateMachine):
    """One rule for each event, and a model of the pages that the tracker must report."""

    make: type[XenTracker] = XenTracker

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        # Small values make ranges change in this small video RAM.
        self.patch.setattr(module, "SPARE_PAGES", 4)
        self.patch.setattr(module, "MAX_RANGE_FACTOR", 6)
        self.patch.setattr(module, "IdleWatch", self.watch)
        Sampled.last = None
        self.logged: set[int] = set()
        self.unlogged: dict[int, float] = {}
        """Unlogged written pages, and the time by which they must be reported."""
        self.unseen_burst: dict[int, float] = {}
        """The same for writes with CR0.WP clear that the tracker has not noticed yet."""
        self.wp = self.alive = True
        self.rescans_s: list[float] = []
        self.failing = False
        self.window = (0, PAGES)
        self.others = -1, -1
        """Domain of the other caller's last call, and the number of calls of the tracker at that time."""
        self.domain: XenDomain | None = None

    @initialize(hap=st.booleans())
    def begin(self, hap: bool) -> None:
        self.domain = XenDomain(pages=PAGES, hap=hap)
        self.tracker = self.domain.tracker(lambda clock: self.make(open_cpus=Sampled, clock=clock))
        self.collect((0, PAGES), fails=False)

    # Writes

    @rule(written=st.lists(pages, min_size=1, max_size=6))
    @precondition(lambda self: self.alive and self.domain.space.placement is not None)
    def write(self, written: list[int]) -> None:
        for page in written:
            self.write_page(page)

    def write_page(self, page: int) -> None:
        assert self.domain is not None
        self.domain.write(page)
        if self.domain.hap or self.wp:
            self.logged.add(page)
        elif Sampled.last is False:
            self.unlogged.setdefault(page, self.domain.now_s + LATEST_SEEN_S)
        else:
            self.unseen_burst.setdefault(page, self.domain.now_s + LATEST_SEEN_S)

    @rule(page=pages)
    @precondition(lambda self: self.alive)
    def draw(self, page: int) -> None:
        assert self.domain is not None
        self.domain.draw(page)
        self.unlogged.setdefault(page, self.domain.now_s + LATEST_SEEN_S)

    @rule()
    def run_model(self) -> None:
        assert self.domain is not None
        self.domain.model.runs += 1

    @rule(wp=st.booleans())
    @precondition(lambda self: self.alive)
    def switch_write_protection(self, wp: bool) -> None:
        assert self.domain is not None
        if wp and Sampled.last is not False:
            # The tracker cannot see a change between two samples. It promises only what lasts longer.
            for page in self.unseen_burst:
                self.domain.mine[page] = self.domain.truth[page]
            self.unseen_burst.clear()
        self.wp = wp
        self.domain.xen.cpu(self.domain.domid, CR0_WP, CR0_WP if wp else 0)

    # Other callers and failures

    @rule(window=windows)
    @precondition(lambda self: self.alive)
    def other_calls(self, window: tuple[int, int]) -> None:
        """QEMU tracks all of the video RAM, or another program a range that differs from the tracker's."""
        assert self.domain is not None
        first, last = window
        calls = self.domain.xen.log_calls
        if (VRAM_FRAME + first, last - first) != (calls.first, calls.frames):
            self.domain.xen.read_log(self.domain.domid, VRAM_FRAME + first, last - first)
            self.others = self.domain.domid, calls.reads

    @rule(number=st.sampled_from([errno.EIO, errno.EINVAL, errno.EAGAIN]), skip=st.integers(0, 1))
    def fail_soon(self, number: int, skip: int) -> None:
        assert self.domain is not None
        self.failing = True
        self.domain.xen.fail(TRACK, number, skip=skip, times=1)

    @rule(number=st.sampled_from([errno.EIO, errno.EFAULT]))
    def fail_halfway(self, number: int) -> None:
        assert self.domain is not None
        self.failing = True
        self.domain.xen.fail(TRACK, number, times=1, after=True)

    @rule(ticks=st.integers(0, 24))
    def let_pass(self, ticks: int) -> None:
        assert self.domain is not None
        self.domain.now_s += ticks / 16

    # Placement

    @rule(first=st.sampled_from([0, 0, VRAM_FRAME, 0xE_0000]), once=rarely)
    @precondition(lambda self: self.alive)
    def place(self, first: int, once: int) -> None:
        assert self.domain is not None
        if once:
            return
        self.domain.xen.place(self.domain.domid, first)
        if first:
            assert self.domain.space.place(self.domain.domid, first)
        else:
            self.domain.space.unplace()

    @rule(once=rarely)
    @precondition(lambda self: self.alive)
    def destroy(self, once: int) -> None:
        assert self.domain is not None
        if once:
            return
        self.domain.xen.destroy(self.domain.domid)
        self.alive = False

    @rule()
    @precondition(lambda self: not self.alive)
    def reboot(self) -> None:
        assert self.domain is not None
        self.domain.reboot_after_end()
        self.alive = self.wp = True
        self.logged, self.unlogged, self.unseen_burst = set(range(PAGES)), {}, {}

    # The consumer

    @rule(window=windows, fails=st.booleans())
    def collect(self, window: tuple[int, int], fails: bool) -> None:
        domain = self.domain
        assert domain is not None
        self.window = window
        try:
            answer = self.tracker.collect(window)
        except VramtapError:
            if not self.failing:
                raise
            return
        finally:
            self.burst_is_seen()
        if self.tracker.wants_feedback:
            self.rescans_s.append(domain.now_s)
        if domain.space.placement is None and not fails:
            return  # nothing can be read
        if fails:
            # The consumer could not use the answer and restores it.
            self.tracker.restore(PageRuns([window]) if isinstance(answer, AllDirty) else answer)
            inside = set(range(*window))
            self.logged |= (self.unlogged.keys() | self.unseen_burst.keys()) & inside & self.of(answer)
            return
        changed = domain.read(answer, window)
        if self.tracker.wants_feedback:
            self.tracker.feedback(changed)
        self.check(window)

    def of(self, answer: PageRuns | AllDirty) -> set[int]:
        runs = PageRuns([self.window]) if isinstance(answer, AllDirty) else answer
        return {page for first, last in runs for page in range(first, last)}

    def burst_is_seen(self) -> None:
        if Sampled.last is False:
            self.unlogged = self.unseen_burst | self.unlogged
            self.unseen_burst = {}

    def check(self, window: tuple[int, int]) -> None:
        domain = self.domain
        assert domain is not None
        due = {page for page, due_s in (self.unlogged | self.unseen_burst).items() if due_s <= domain.now_s}
        stale = self.stale()
        missed = [page for page in range(*window) if page in (self.logged | due) and stale[page]]
        assert not missed, f"missed {missed}"
        unaccounted = [p for p in range(*window) if stale[p] and p not in self.unlogged | self.unseen_burst]
        assert not unaccounted, unaccounted
        for page in range(*window):
            self.logged.discard(page)
            if not stale[page]:
                self.unlogged.pop(page, None)
                self.unseen_burst.pop(page, None)

    def stale(self) -> NDArray[np.bool_]:
        assert self.domain is not None
        return np.not_equal(self.domain.mine, self.domain.truth)

    def watch(self, poll: object, callback: object, interval_s: float) -> None:
        self.poll = poll

    @rule(ticks=st.integers(0, 20), times=st.integers(1, 3))
    def idle(self, ticks: int, times: int) -> None:
        """Poll without collecting; the tracker must wake if something was written."""
        domain = self.domain
        assert domain is not None
        self.tracker.wake(lambda: None)
        assert callable(self.poll)
        for _ in range(times):
            domain.now_s += max(ticks / 16, 0.05)
            woken = self.poll()
            self.burst_is_seen()
            if woken:
                return
            if not self.alive and domain.space.placement is not None:
                return
            due = {p for p, due_s in (self.unlogged | self.unseen_burst).items() if due_s <= domain.now_s}
            stale = self.stale()
            overslept = [p for p in range(*self.window) if stale[p] and p in self.logged | due]
            assert not overslept or domain.space.placement is None, overslept

    def teardown(self) -> None:
        domain = self.domain
        try:
            if domain is None:
                return
            domain.xen.fail(TRACK, 0, times=0)
            self.failing = False
            if domain.space.placement is not None:
                for _ in range(2):
                    self.collect((0, PAGES), fails=False)
                    domain.now_s += 2 * LATEST_SEEN_S
                self.collect((0, PAGES), fails=False)
                assert not self.stale().any()
            assert domain.xen.log_calls.full_reads == 0, "the tracker used QEMU's range"
            gaps = np.diff(self.rescans_s)
            assert not gaps.size or gaps.min() >= MIN_INTERVAL_S, gaps
            self.tracker.stop()
            theirs = (domain.domid, domain.xen.log_calls.reads) == self.others
            assert theirs or not domain.xen.tracked(domain.domid)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Free all resources."""
        self.patch.undo()
        if self.domain is not None:
            self.domain.xen.fail(TRACK, 0, times=0)
            self.tracker.stop()
            self.domain.close()


@pytest.mark.stress
def test_no_write_is_missed(stress: int) -> None:
    chosen = settings(max_examples=100 * stress, stateful_step_count=50, deadline=None)
    run_state_machine_as_test(Tapped, settings=chosen)


def drive(make: type[XenTracker], seed: int, steps: int) -> None:
    """Run the same rules for a long time, frequent events more often."""
    chance = random.Random(seed)
    tapped = Tapped()
    tapped.make = make
    tapped.begin(chance.random() < 0.5)
    domain = tapped.domain
    assert domain is not None
    often = chance.choice([(0, PAGES), (0, 48), (20, 70)])

    def window() -> tuple[int, int]:
        first = chance.randrange(PAGES)
        return chance.choice([often, often, (first, chance.randrange(first, PAGES) + 1), (24, 48)])

    def write() -> None:
        if domain.space.placement is not None:
            tapped.write([chance.randrange(PAGES) for _ in range(3)])

    living: dict[Callable[[], None], int] = {
        write: 30,
        lambda: tapped.draw(chance.randrange(PAGES)): 4,
        lambda: tapped.switch_write_protection(chance.random() < 0.7): 4,
        lambda: tapped.other_calls(chance.choice([(0, PAGES), window()])): 2,
        lambda: tapped.place(chance.choice([0, VRAM_FRAME, 0xE_0000]), 0): 2,
        lambda: tapped.destroy(0): 1,
    }
    dead: dict[Callable[[], None], int] = {tapped.reboot: 5}
    always: dict[Callable[[], None], int] = {
        lambda: tapped.collect(window(), chance.random() < 0.1): 60,
        lambda: tapped.let_pass(chance.randrange(24)): 15,
        lambda: tapped.idle(chance.randrange(20), chance.randrange(1, 4)): 10,
        tapped.run_model: 2,
        lambda: tapped.fail_soon(errno.EIO, chance.randrange(2)): 2,
        lambda: tapped.fail_halfway(errno.EFAULT): 2,
    }
    try:
        for _ in range(steps):
            may = always | (living if tapped.alive else dead)
            chance.choices(list(may), list(may.values()))[0]()
    except BaseException:
        tapped.abandon()
        raise
    tapped.teardown()


def drive_all(make: type[XenTracker], times: int) -> None:
    for seed in range(times):
        drive(make, seed, 250)


@pytest.mark.stress
def test_no_write_is_missed_in_the_long_run(stress: int) -> None:
    drive_all(XenTracker, 200 * stress)


# Broken trackers, which the tests must detect


class TracksQemusRange(XenTracker):
    """Tracks QEMU's own range."""

    def _choose_range(self, first: int, last: int) -> None:
        super()._choose_range(first, last)
        if self._range == (0, PAGES + 1):
            self._range = (0, PAGES)


class IgnoresFailures(XenTracker):
    """Ignores that a failed call may have cleared the log."""

    def _fetch(self) -> None:
        kept = copy.copy(self._backlog), self._state
        try:
            super()._fetch()
        except VramtapError:
            self._backlog, self._state = kept
            raise


class AlwaysContinues(DeviceModel):
    """Answers for every later start of the log as if the log had continued."""

    started = False

    def track_dirty_vram(self, domid: int, first: int, frames: int, bitmap: NDArray[np.uint8]) -> bool:
        continued = super().track_dirty_vram(domid, first, frames, bitmap)
        started, self.started = self.started, True
        return continued or started

    def stop_dirty_vram(self, domid: int) -> None:
        super().stop_dirty_vram(domid)
        self.started = False


class IgnoresRestarts(XenTracker):
    """Does not notice that another caller has restarted the log."""

    def start(self, extent: Extent) -> None:
        def open_log() -> VramLog:
            return AlwaysContinues()

        self._open_log = open_log
        super().start(extent)


class ForgetsOutsideTheWindow(XenTracker):
    """Takes a rescan of the window for one of all pages."""

    def _begin_rescan(self, first: int, last: int) -> None:
        backlog = copy.copy(self._backlog)
        super()._begin_rescan(first, last)
        self._backlog = backlog


class IgnoresFirstPlacement(XenTracker):
    """Takes a new placement for the first one."""

    def _choose_range(self, first: int, last: int) -> None:
        if self._place is None:
            self._state = module._Log.NEW
        super()._choose_range(first, last)


class NeverRescans(XenTracker):
    """Never rescans."""

    def _rescan_reason(self) -> None:
        return None


class IgnoresMoves(XenTracker):
    """Ignores that the video RAM has moved."""

    def _choose_range(self, first: int, last: int) -> None:
        if self._place is not None and self._frames.placement is not None:
            self._place = self._frames.placement
        super()._choose_range(first, last)


class DoesNotStop(XenTracker):
    """Does not stop the hypervisor's log."""

    def stop(self) -> None:
        self._tracked_domid = None
        super().stop()


class DropsTheRest(XenTracker):
    """Drops pages outside the window."""

    def collect(self, window: tuple[int, int] | None = None) -> PageRuns | AllDirty:
        answer = super().collect(window)
        self._backlog._dirty = NO_PAGES
        return answer


class RescansTooOften(XenTracker):
    """Rescans at every poll."""

    def _begin_rescan(self, first: int, last: int) -> None:
        super()._begin_rescan(first, last)
        self._rescan_timer = RescanTimer()


@pytest.mark.parametrize(
    "broken",
    [
        *(TracksQemusRange, IgnoresFailures, IgnoresRestarts, ForgetsOutsideTheWindow, NeverRescans),
        *(IgnoresFirstPlacement, IgnoresMoves, DoesNotStop, DropsTheRest, RescansTooOften),
    ],
)
def test_broken_tracker_is_detected(broken: type[XenTracker]) -> None:
    with pytest.raises(AssertionError):
        drive_all(broken, 200)
