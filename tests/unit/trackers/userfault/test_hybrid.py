"""The hybrid over a log, a watchdog and a policy that note what is asked of them: what comes after what."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from vramtap.errors import KernelError, TargetGone, VramtapError
from vramtap.linux.inject import Fetched
from vramtap.memory.extent import Extent
from vramtap.pages import NO_PAGES, PAGE_SIZE, PageRuns
from vramtap.policy.costs import Costs
from vramtap.policy.decide import Counts, State
from vramtap.trackers.base import AllDirty, Reason, Waker
from vramtap.trackers.userfault import hybrid as module
from vramtap.trackers.userfault.hybrid import HybridTracker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PAGES, TILE_PAGES = 12, 4
COSTS = Costs(1, 1, 1, 1, 1, 1, 1)


class Space:
    name = "target"
    pid: int | None = 1
    bytes_read = 0
    events = None
    frames = None

    def read_runs(self, *arguments: object) -> None:
        raise AssertionError("a tracker that reads nothing")


EXTENT = Extent(Space(), 0x10000, PAGES)


class LogsWaker:
    fd = None

    def cancel(self) -> None:
        """Nothing is under way."""


LOGS_WAKER = LogsWaker()


class World:
    """What is there to be asked, and in which order it was."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.fail: dict[str, BaseException] = {}
        """What raises this when it is asked, once."""
        self.written = NO_PAGES
        self.unknown: AllDirty | None = None
        self.restored = NO_PAGES
        self.hole = False
        self.fired = False
        self.answers = True
        self.is_ready = True
        self.where = 0
        self.lives = True

    def ask(self, what: str) -> None:
        self.asked.append(what)
        if what in self.fail:
            raise self.fail.pop(what)

    def since(self) -> list[str]:
        asked, self.asked = self.asked, []
        return asked


class Log:
    """`LogTracker`, by the world's will."""

    stopped_us = 0.0
    read_from = EXTENT

    def __init__(self, world: World) -> None:
        self.world = world

    def start_fetched(self, extent: Extent, fetch: object) -> Fetched:
        return Fetched(-1, 0.0, Dog(self.world))  # type: ignore[arg-type]

    @property
    def is_mapped(self) -> bool:
        self.world.ask("whole")
        return not self.world.hole

    @property
    def has_pending(self) -> bool:
        return self.world.unknown is not None or bool(self.world.restored)

    def collect(self, window: object = None, *, exclude: PageRuns) -> PageRuns | AllDirty:
        self.world.ask("collect")
        if self.world.unknown is not None:
            return self.take_pending()
        found = self.world.written.difference(exclude).union(self.world.restored)
        self.world.written = self.world.written.intersection(exclude)
        self.world.restored = NO_PAGES
        return found

    def take_pending(self, window: object = None) -> PageRuns | AllDirty:
        unknown, self.world.unknown = self.world.unknown, None
        if unknown is not None:
            return unknown
        restored, self.world.restored = self.world.restored, NO_PAGES
        return restored

    def suspend(self, why: AllDirty) -> None:
        self.world.ask("suspend")
        self.world.unknown = why

    def resume(self, why: AllDirty) -> AllDirty:
        self.world.ask("resume")
        self.world.unknown = why
        return why

    def restore(self, runs: PageRuns) -> None:
        self.world.restored = self.world.restored.union(runs)

    def wake(self, callback: Callable[[], None]) -> Waker:
        return LOGS_WAKER

    def stop(self) -> None:
        self.world.ask("disarm")


class Guard:
    def __init__(self, world: World) -> None:
        self.world = world

    def __getattr__(self, name: str) -> Callable[[int, int], None]:
        def ask(start: int, end: int) -> None:
            assert (start, end) == (EXTENT.address, EXTENT.end)
            self.world.ask(name)

        return ask


class Dog:
    """`Watchdog`, by the world's will."""

    pid = 4711

    def __init__(self, world: World) -> None:
        self.world = world
        self.guard = Guard(world)

    @property
    def fired(self) -> bool:
        return self.world.fired

    @property
    def alive(self) -> bool:
        return self.world.lives

    answered = True

    @property
    def where(self) -> int:
        return self.world.where

    def ready(self) -> bool:
        self.world.ask("ready")
        return self.world.is_ready

    def wait_released(self, timeout_s: float) -> bool:
        self.world.ask("wait_released")
        return self.world.answers

    def acknowledge(self) -> None:
        self.world.ask("acknowledge")
        self.world.fired = False

    def ping(self) -> None:
        self.world.ask("ping")

    def fileno(self) -> int:
        return 4712

    def close(self) -> None:
        self.world.ask("close")


class Obeys:
    """A policy that does what it is told and notes what it was told."""

    name = "obeys"

    def __init__(self) -> None:
        self.next = State(np.zeros(3, np.bool_))
        self.seen: list[list[int]] = []
        self.slept_s: list[float | None] = []

    def start(self, pages: Counts, costs: Costs) -> State:
        assert pages.tolist() == [TILE_PAGES] * 3
        return self.next

    def step(self, state: State, dirty: Counts) -> State:
        self.seen.append(dirty.tolist())
        return self.next

    def woken(self, state: State, slept_s: float | None = None) -> State:
        self.slept_s.append(slept_s)
        self.next = State(np.zeros(3, np.bool_))
        return self.next

    def opens(self, *tiles: int) -> None:
        self.next = State(np.isin(np.arange(3), tiles))

    def arms(self) -> None:
        self.next = State(np.zeros(3, np.bool_), armed=True)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def policy() -> Obeys:
    return Obeys()


@pytest.fixture
def tracker(world: World, policy: Obeys, monkeypatch: pytest.MonkeyPatch) -> Iterator[HybridTracker]:
    monkeypatch.setattr(module, "LogTracker", lambda **options: Log(world))
    monkeypatch.setattr(module, "measure_costs", lambda *arguments: COSTS)
    made = HybridTracker(policy=policy, tile_pages=TILE_PAGES)
    made.start(EXTENT)
    world.since()
    yield made
    made.stop()


RELEASED = ["lift", "unregister", "wake"]
ARMED = ["suspend", "register", "whole", "protect"]


def arm(tracker: HybridTracker, world: World, policy: Obeys) -> None:
    policy.arms()
    assert tracker.collect() == AllDirty(Reason.ARMED)
    assert tracker.armed
    world.since()


# Changing hands


def test_arming_protects_before_it_is_answered(tracker: HybridTracker, world: World, policy: Obeys) -> None:
    policy.arms()
    assert tracker.collect() == AllDirty(Reason.ARMED)
    assert world.since() == ["collect", "whole", "ready", *ARMED]
    assert tracker.armed


def test_armed_nothing_is_asked_but_whether_there_is_a_hole(
    tracker: HybridTracker, world: World, policy: Obeys
) -> None:
    arm(tracker, world, policy)
    assert tracker.collect() == NO_PAGES
    assert world.since() == ["whole"]


def test_handing_over_ends_with_the_logs_protection(
    tracker: HybridTracker, world: World, policy: Obeys
) -> None:
    arm(tracker, world, policy)
    world.fired = True
    assert tracker.collect() == AllDirty(Reason.WOKEN)
    assert world.since() == [
        "wait_released",
        "lift",
        "unregister",
        "wake",
        "acknowledge",
        "resume",
        "collect",
    ]
    assert not tracker.armed
    assert policy.slept_s[0] is not None
    assert policy.slept_s[0] >= 0


def test_what_is_near_the_write_comes_first_and_everything_next(
    tracker: HybridTracker, world: World, policy: Obeys
) -> None:
    arm(tracker, world, policy)
    world.fired, world.where = True, EXTENT.address + 10 * PAGE_SIZE
    near = tracker.collect()
    assert isinstance(near, PageRuns)
    assert 10 in near
    assert near == near.clip(0, PAGES)
    assert world.since()[-1] == "resume", "it is protected before it is read"
    assert tracker.collect() == AllDirty(Reason.WOKEN)


def test_where_the_watchdog_does_not_answer_we_lift_first(
    tracker: HybridTracker, world: World, policy: Obeys
) -> None:
    arm(tracker, world, policy)
    world.fired, world.answers = True, False
    assert tracker.collect() == AllDirty(Reason.WOKEN)
    assert world.since() == ["wait_released", "ping", *RELEASED, "acknowledge", "resume", "collect"]


def test_a_hole_while_armed_is_handed_over(tracker: HybridTracker, world: World, policy: Obeys) -> None:
    arm(tracker, world, policy)
    world.hole = True
    assert isinstance(tracker.collect(), AllDirty)
    assert not tracker.armed


def test_a_watchdog_that_is_not_done_is_waited_for(
    tracker: HybridTracker, world: World, policy: Obeys
) -> None:
    world.is_ready = False
    policy.arms()
    for _ in range(3):
        assert tracker.collect() == NO_PAGES
        assert not tracker.armed
    assert "suspend" not in world.since()
    world.is_ready = True
    assert tracker.collect() == AllDirty(Reason.ARMED)


def test_one_that_did_not_answer_is_not_trusted_until_it_has(
    tracker: HybridTracker, world: World, policy: Obeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Dog, "answered", False)
    arm(tracker, world, policy)
    world.fired, world.answers = True, False
    tracker.collect()
    policy.arms()
    world.since()
    for _ in range(3):
        assert tracker.collect() == NO_PAGES
        assert world.since() == ["acknowledge", "collect"]
    monkeypatch.setattr(Dog, "answered", True)
    assert tracker.collect() == AllDirty(Reason.ARMED)


def test_a_dead_watchdog_is_let_go_of_and_said(
    tracker: HybridTracker, world: World, policy: Obeys, caplog: pytest.LogCaptureFixture
) -> None:
    world.is_ready = world.lives = False
    policy.arms()
    assert tracker.collect() == NO_PAGES
    assert world.since()[-1] == "close"
    assert "has ended: never armed again" in caplog.text
    assert tracker.unarmable == "the watchdog has ended"
    assert tracker.wake(lambda: None) is LOGS_WAKER
    assert tracker.collect() == NO_PAGES
    assert not tracker.armed


def test_what_is_to_be_reported_keeps_it_from_being_armed(
    tracker: HybridTracker, world: World, policy: Obeys
) -> None:
    policy.arms()
    world.written = PageRuns([(2, 3)])
    assert tracker.collect() == PageRuns([(2, 3)])
    tracker.restore(PageRuns([(2, 3)]))
    assert tracker.collect() == PageRuns([(2, 3)])
    assert not tracker.armed
    assert tracker.collect() == AllDirty(Reason.ARMED)


# What fails on the way


def test_where_registering_is_refused_nothing_is_lifted(
    tracker: HybridTracker, world: World, policy: Obeys
) -> None:
    """It may be another's."""
    world.fail["register"] = KernelError("UFFDIO_REGISTER", "target", 16)
    policy.arms()
    answer = tracker.collect()
    assert isinstance(answer, AllDirty)
    assert answer.reason is Reason.REMAPPED
    assert "EBUSY" in answer.detail
    assert world.since()[-3:] == ["suspend", "register", "resume"]
    assert not tracker.armed


def test_where_protecting_is_refused_the_registration_is_given_back(
    tracker: HybridTracker, world: World, policy: Obeys
) -> None:
    world.fail["protect"] = KernelError("UFFDIO_WRITEPROTECT", "target", 2)
    policy.arms()
    assert isinstance(tracker.collect(), AllDirty)
    assert world.since()[-6:] == ["whole", "protect", *RELEASED, "resume"]
    assert not tracker.armed
    assert tracker.collect() == AllDirty(Reason.ARMED), "another time"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), TargetGone("a", "b", "c")])
def test_what_is_none_of_its_business_goes_on_up_with_all_given_back(
    tracker: HybridTracker, world: World, policy: Obeys, error: BaseException
) -> None:
    world.fail["protect"] = error
    policy.arms()
    with pytest.raises(type(error)):
        tracker.collect()
    assert world.since()[-4:] == [*RELEASED, "resume"]
    assert not tracker.armed
    assert isinstance(tracker.collect(), AllDirty), "what was written meanwhile is in no log"


def test_where_giving_back_is_refused_everything_is_let_go_of(
    tracker: HybridTracker, world: World, policy: Obeys
) -> None:
    arm(tracker, world, policy)
    world.fired = True
    world.fail["unregister"] = KernelError("UFFDIO_UNREGISTER", "target", 22)
    assert tracker.collect() == AllDirty(Reason.WOKEN)
    assert world.since() == ["wait_released", "lift", "unregister", "close", "resume", "collect"]
    assert "UFFDIO_UNREGISTER" in tracker.unarmable


# Tiles


def test_open_tiles_are_reported_unasked_and_judged_by_what_is_learned(
    tracker: HybridTracker, world: World, policy: Obeys
) -> None:
    policy.opens(1)
    assert tracker.collect() == NO_PAGES
    assert tracker.unprotected == PageRuns([(4, 8)])
    assert not tracker.wants_feedback
    policy.seen.clear()
    world.written = PageRuns([(0, 2), (5, 6)])
    assert tracker.collect() == PageRuns([(0, 2), (4, 8)])
    assert tracker.wants_feedback
    assert policy.seen == [], "nothing is decided before it is known"
    tracker.feedback(PageRuns([(1, 6)]))
    # Of what was logged the log's word counts, of what is open the consumer's.
    assert policy.seen == [[2, 2, 0]]
    assert not tracker.wants_feedback
    tracker.feedback(PageRuns([(4, 8)]))
    assert policy.seen == [[2, 2, 0]], "it is learned once"


def test_a_window_reports_the_open_tiles_in_it(tracker: HybridTracker, world: World, policy: Obeys) -> None:
    policy.opens(0, 1)
    tracker.collect()
    assert tracker.collect((2, 6)) == PageRuns([(2, 6)])


def test_who_is_not_told_takes_all_for_changed(tracker: HybridTracker, policy: Obeys) -> None:
    policy.opens(1)
    tracker.collect()
    policy.seen.clear()
    tracker.collect()
    tracker.collect()
    assert policy.seen == [[0, 4, 0]]


def test_a_tile_that_was_closed_is_reported_as_written_but_not_counted(
    tracker: HybridTracker, world: World, policy: Obeys
) -> None:
    policy.opens(1)
    tracker.collect()
    world.written = PageRuns([(4, 8)])
    tracker.collect()
    policy.opens()
    tracker.feedback(NO_PAGES)
    assert tracker.unprotected == NO_PAGES
    policy.seen.clear()
    world.written = world.written.union(PageRuns([(9, 10)]))
    assert tracker.collect() == PageRuns([(4, 8), (9, 10)])
    assert policy.seen == [[0, 0, 1]]
    world.written = PageRuns([(4, 5)])
    assert tracker.collect() == PageRuns([(4, 5)])
    assert policy.seen[-1] == [0, 1, 0]


def test_it_is_not_armed_while_a_tile_is_open(tracker: HybridTracker, world: World, policy: Obeys) -> None:
    policy.opens(0)
    tracker.collect()
    policy.next = State(np.array([True, False, False]), armed=True)
    for _ in range(3):
        assert tracker.collect() == PageRuns([(0, 4)])
        tracker.feedback(NO_PAGES)
        assert not tracker.armed
    assert "suspend" not in world.since()


def test_armed_together_with_a_tile_opened_the_waking_closes_it(
    tracker: HybridTracker, world: World, policy: Obeys
) -> None:
    policy.next = State(np.array([True, False, False]), armed=True)
    assert tracker.collect() == AllDirty(Reason.ARMED)
    assert tracker.collect() == NO_PAGES
    world.fired = True
    assert tracker.collect() == AllDirty(Reason.WOKEN)
    assert tracker.unprotected == NO_PAGES


# Waiting


def test_it_waits_for_a_descriptor_when_armed_and_for_nothing_else(
    tracker: HybridTracker, world: World, policy: Obeys
) -> None:
    assert tracker.wake(lambda: None) is None
    arm(tracker, world, policy)
    called: list[int] = []
    waker = tracker.wake(lambda: called.append(1))
    assert waker is not None
    assert waker.fd == 4712
    waker.cancel()
    assert not called
    tracker.restore(PageRuns([(1, 2)]))
    waker = tracker.wake(lambda: called.append(1))
    assert waker is not None
    waker.cancel()
    assert called, "there is something to report already"


def test_disarmed_it_has_let_go_of_all(tracker: HybridTracker, world: World, policy: Obeys) -> None:
    arm(tracker, world, policy)
    tracker.stop()
    assert world.since() == ["close", "disarm"]
    assert not tracker.armed
    assert not tracker.wants_feedback
    assert tracker.unprotected == NO_PAGES
    assert tracker.watchdog_pid is None


def test_costs_are_known_once_it_is_armed(tracker: HybridTracker) -> None:
    assert tracker.costs == COSTS
    with pytest.raises(VramtapError, match="not started"):
        HybridTracker().costs  # noqa: B018 - asking is the test
