"""Tracker `xen` among guests, device models and others that do anything: no write is missed."""

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
"""After which even what is in no log has been looked at, if it was asked for."""
TRACK = "xendevicemodel_track_dirty_vram"

pages = st.integers(0, PAGES - 1)
rarely = st.integers(0, 4)
"""0 is once in a while."""
windows = st.one_of(
    st.just((0, PAGES)),
    st.tuples(pages, st.integers(1, PAGES)).map(lambda at: (at[0], min(PAGES, at[0] + at[1]))),
    st.sampled_from([(0, 24), (24, 48), (0, 48), (40, 60)]),
)


class Sampled(Control):
    """Tells what was last answered about CR0.WP."""

    last: bool | None = None

    def heeds_write_protection(self, domid: int) -> bool:
        type(self).last = None
        type(self).last = super().heeds_write_protection(domid)
        assert self.last is not None
        return self.last


class Tapped(RuleBasedStateMachine):
    """One rule a thing that happens; what a write obliges the tracker to is kept beside it."""

    make: type[XenTracker] = XenTracker

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        # So that ranges change in so small a video RAM.
        self.patch.setattr(module, "SPARE_PAGES", 4)
        self.patch.setattr(module, "MAX_RANGE_FACTOR", 6)
        self.patch.setattr(module, "IdleWatch", self.watch)
        Sampled.last = None
        self.logged: set[int] = set()
        self.unlogged: dict[int, float] = {}
        """Pages, and when they must have been looked at at the latest."""
        self.unseen_burst: dict[int, float] = {}
        """The same, of a time with CR0.WP clear of which the tracker knows nothing yet."""
        self.wp = self.alive = True
        self.looks_s: list[float] = []
        self.failing = False
        self.window = (0, PAGES)
        self.others = -1, -1
        """The domain another asked for last, and how many questions of ours there had been."""
        self.domain: XenDomain | None = None

    @initialize(hap=st.booleans())
    def begin(self, hap: bool) -> None:
        self.domain = XenDomain(pages=PAGES, hap=hap)
        self.tracker = self.domain.tracker(lambda clock: self.make(open_cpus=Sampled, clock=clock))
        self.collect((0, PAGES), fails=False)

    # What is written

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
    def run_in_vain(self) -> None:
        assert self.domain is not None
        self.domain.model.runs += 1

    @rule(wp=st.booleans())
    @precondition(lambda self: self.alive)
    def switch_write_protection(self, wp: bool) -> None:
        assert self.domain is not None
        if wp and Sampled.last is not False:
            # Between two samples nobody can know; the promise is for as long as the mode lasts.
            for page in self.unseen_burst:
                self.domain.mine[page] = self.domain.truth[page]
            self.unseen_burst.clear()
        self.wp = wp
        self.domain.xen.cpu(self.domain.domid, CR0_WP, CR0_WP if wp else 0)

    # What others do

    @rule(window=windows)
    @precondition(lambda self: self.alive)
    def other_asks(self, window: tuple[int, int]) -> None:
        """QEMU for all of it, or another program for a part that is not ours by chance."""
        assert self.domain is not None
        first, last = window
        asked = self.domain.xen.asked
        if (VRAM_FRAME + first, last - first) != (asked.first, asked.frames):
            self.domain.xen.ask(self.domain.domid, VRAM_FRAME + first, last - first)
            self.others = self.domain.domid, asked.questions

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

    # Where it is

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

    # What the consumer does

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
            self.looks_s.append(domain.now_s)
        if domain.space.placement is None and not fails:
            return  # nothing to be read; what is shown is of no interest
        if fails:
            # What could not be used is given back.
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

    def watch(self, question: object, answer: object, interval_s: float) -> None:
        self.question = question

    @rule(ticks=st.integers(0, 20), times=st.integers(1, 3))
    def idle(self, ticks: int, times: int) -> None:
        """Nobody collects; the tracker asks from its thread, and stays still only if nothing was written."""
        domain = self.domain
        assert domain is not None
        self.tracker.wake(lambda: None)
        assert callable(self.question)
        for _ in range(times):
            domain.now_s += max(ticks / 16, 0.05)
            woken = self.question()
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
            assert domain.xen.asked.of_all == 0, "QEMU's range is QEMU's"
            gaps = np.diff(self.looks_s)
            assert not gaps.size or gaps.min() >= MIN_INTERVAL_S, gaps
            self.tracker.stop()
            theirs = (domain.domid, domain.xen.asked.questions) == self.others
            assert theirs or not domain.xen.tracked(domain.domid)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Let go of everything."""
        self.patch.undo()
        if self.domain is not None:
            self.domain.xen.fail(TRACK, 0, times=0)
            self.tracker.stop()
            self.domain.close()


@pytest.mark.storm
def test_no_write_is_missed(storm: int) -> None:
    chosen = settings(max_examples=100 * storm, stateful_step_count=50, deadline=None)
    run_state_machine_as_test(Tapped, settings=chosen)


def drive(make: type[XenTracker], seed: int, steps: int) -> None:
    """The same over a long time, and most of it what happens most: writes, and questions."""
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
        lambda: tapped.other_asks(chance.choice([(0, PAGES), window()])): 2,
        lambda: tapped.place(chance.choice([0, VRAM_FRAME, 0xE_0000]), 0): 2,
        lambda: tapped.destroy(0): 1,
    }
    dead: dict[Callable[[], None], int] = {tapped.reboot: 5}
    always: dict[Callable[[], None], int] = {
        lambda: tapped.collect(window(), chance.random() < 0.1): 60,
        lambda: tapped.let_pass(chance.randrange(24)): 15,
        lambda: tapped.idle(chance.randrange(20), chance.randrange(1, 4)): 10,
        tapped.run_in_vain: 2,
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


@pytest.mark.storm
def test_no_write_is_missed_in_the_long_run(storm: int) -> None:
    drive_all(XenTracker, 200 * storm)


# Trackers with a defect each, which must not get through


class QemusRange(XenTracker):
    """Asks for all of the video RAM as it is."""

    def _choose_range(self, first: int, last: int) -> None:
        super()._choose_range(first, last)
        if self._range == (0, PAGES + 1):
            self._range = (0, PAGES)


class Forgetful(XenTracker):
    """Goes on after a failure as if the log had not been cleared."""

    def _fetch(self) -> None:
        kept = copy.copy(self._backlog), self._state
        try:
            super()._fetch()
        except VramtapError:
            self._backlog, self._state = kept
            raise


class Trusting(DeviceModel):
    """Takes "I have only begun to track" for "nothing was written", but at the first time."""

    told = False

    def track_dirty_vram(self, domid: int, first: int, frames: int, bitmap: NDArray[np.uint8]) -> bool:
        told = super().track_dirty_vram(domid, first, frames, bitmap)
        begun, self.told = self.told, True
        return told or begun

    def stop_dirty_vram(self, domid: int) -> None:
        super().stop_dirty_vram(domid)
        self.told = False


class IgnoresBeginnings(XenTracker):
    """Does not see that another's question has begun the log anew."""

    def start(self, extent: Extent) -> None:
        def trusting() -> VramLog:
            return Trusting()

        self._open_log = trusting
        super().start(extent)


class SeesOnlyTheWindow(XenTracker):
    """Takes a look at the window for a look at all of it."""

    def _begin_rescan(self, first: int, last: int) -> None:
        backlog = copy.copy(self._backlog)
        super()._begin_rescan(first, last)
        self._backlog = backlog


class TakesAPlaceForTheFirst(XenTracker):
    """Believes that nothing was written in a place where there was none before."""

    def _choose_range(self, first: int, last: int) -> None:
        if self._place is None:
            self._state = module._Log.NEW
        super()._choose_range(first, last)


class NeverRefreshes(XenTracker):
    """Believes the log."""

    def _rescan_reason(self) -> None:
        return None


class StaysWhereItWas(XenTracker):
    """Does not follow the video RAM."""

    def _choose_range(self, first: int, last: int) -> None:
        if self._place is not None and self._frames.placement is not None:
            self._place = self._frames.placement
        super()._choose_range(first, last)


class LeavesTracks(XenTracker):
    """Lets the hypervisor go on."""

    def stop(self) -> None:
        self._tracked_domid = None
        super().stop()


class LosesTheRest(XenTracker):
    """Forgets what was written outside of the window."""

    def collect(self, window: tuple[int, int] | None = None) -> PageRuns | AllDirty:
        answer = super().collect(window)
        self._backlog._dirty = NO_PAGES
        return answer


class Hurries(XenTracker):
    """Looks for what is in no log at every question."""

    def _begin_rescan(self, first: int, last: int) -> None:
        super()._begin_rescan(first, last)
        self._rescan_timer = RescanTimer()


@pytest.mark.parametrize(
    "broken",
    [
        *(QemusRange, Forgetful, IgnoresBeginnings, SeesOnlyTheWindow, NeverRefreshes),
        *(TakesAPlaceForTheFirst, StaysWhereItWas, LeavesTracks, LosesTheRest, Hurries),
    ],
)
def test_a_defect_is_found(broken: type[XenTracker]) -> None:
    with pytest.raises(AssertionError):
        drive_all(broken, 200)
