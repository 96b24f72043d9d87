"""The contract of `Tracker` for HybridTracker, with any decisions of the policy and any feedback."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, get_args

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contract.test_trackers import LOGGED, PAGES, Memory, other_anonymous, other_memfd, own
from support.kvm_guest import kvm_bitmap
from support.random_policy import RandomPolicy
from support.scribe import PAGE
from vramtap.pages import NO_PAGES, PageRuns
from vramtap.policy.costs import Costs
from vramtap.policy.decide import CompareAlways, Counts, OnlinePolicy, Policy, State
from vramtap.trackers.base import AllDirty, Reason
from vramtap.trackers.userfault.hybrid import HybridTracker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

TILE_PAGES: Final = 4
Feedback = Literal["honest", "never", "nothing", "too little"]
"""Feedback of the consumer: correct, none, "nothing changed", or only some of the changes."""


class Consumer:
    """Reads the reported pages only, and gives the feedback that the test chooses."""

    def __init__(self, tracker: HybridTracker, memory: Memory) -> None:
        self.tracker = tracker
        self.memory = memory
        self.mine = np.zeros(PAGES * PAGE, dtype=np.uint8)
        self.seen: Counter[str] = Counter()
        """Number of armings and wake-ups, and of pages that became unprotected and logged."""
        tracker.start(memory.extent)

    def scan(
        self,
        window: tuple[int, int] = (0, PAGES),
        feedback: Feedback = "honest",
        *,
        fail: bool = False,
        wait: bool = False,
    ) -> PageRuns:
        """Collect and read until `has_more` is false; return the reported pages.

        Args:
            window: As for `collect`.
            feedback: Kind of feedback to give.
            fail: Read nothing and restore all pages.
            wait: Call `wake` first, and cancel it.
        """
        if wait:
            waker = self.tracker.wake(lambda: None)
            if waker is not None:
                waker.cancel()
        before = self.tracker.unprotected
        answer = self.tracker.collect(window)
        runs = PageRuns([window]) if isinstance(answer, AllDirty) else answer
        assert runs == runs.clip(*window)
        if isinstance(answer, AllDirty):
            self.seen[answer.reason] += 1
        if fail:
            self.tracker.restore(runs)
        else:
            old = self.mine.copy()
            self.tracker.read_from.read(runs, self.mine)
            if self.tracker.wants_feedback and feedback != "never":
                self.tracker.feedback(self._changed(old, feedback))
        after = self.tracker.unprotected
        self.seen["unprotected"] += after.difference(before).count
        self.seen["logged"] += before.difference(after).count
        if self.tracker.has_more:
            return runs.union(self.scan(window, feedback, fail=fail))
        return runs

    def _changed(self, old: np.ndarray, feedback: Feedback) -> PageRuns:
        changed = (old != self.mine).reshape(PAGES, PAGE).any(axis=1)
        if feedback == "nothing":
            return NO_PAGES
        if feedback == "too little":
            changed &= np.arange(PAGES) % 2 == 0
        return PageRuns.from_mask(changed)

    def check(self) -> None:
        """Check that the copy equals the memory."""
        truth = np.zeros_like(self.mine)
        self.memory.extent.read(PageRuns.full(PAGES), truth)
        wrong = np.flatnonzero((truth != self.mine).reshape(PAGES, PAGE).any(axis=1))
        assert not len(wrong), f"pages {wrong.tolist()} differ from the memory; {self.seen}"


@dataclass(frozen=True, slots=True)
class _RestlessState(State):
    scans: int = 0


class Restless:
    """Changes tiles at random, and often logs all of them and arms.

    Args:
        seed: Seed of the random numbers.
    """

    name = "restless"

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def start(self, pages: Counts, costs: Costs) -> State:
        return _RestlessState(np.zeros(len(pages), dtype=np.bool_))

    def step(self, state: State, dirty: Counts) -> State:
        assert isinstance(state, _RestlessState)
        chance = np.random.default_rng((self._seed, state.scans))
        unprotected, armed = state.unprotected, False
        match chance.integers(4):
            case 0:
                unprotected = unprotected ^ (chance.random(len(unprotected)) < 0.2)
            case 1:
                unprotected = np.zeros_like(unprotected)
            case _:
                armed = True
        return _RestlessState(unprotected, armed, scans=state.scans + 1)

    def woken(self, state: State, slept_s: float | None = None) -> State:
        assert isinstance(state, _RestlessState)
        return _RestlessState(np.zeros_like(state.unprotected), scans=state.scans)


POLICIES: Final[list[Callable[[int], Policy]]] = [
    Restless,
    lambda seed: RandomPolicy(seed, turn=0, arm=1),
    lambda seed: CompareAlways(),
    lambda seed: OnlinePolicy(),
]
MEMORIES: Final = [*LOGGED, kvm_bitmap]


@pytest.fixture(params=MEMORIES, ids=lambda p: p.__name__)
def memory(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Memory]:
    factory: Callable[[Path], AbstractContextManager[Memory]] = request.param
    with factory(tmp_path) as made:
        yield made


@pytest.fixture(params=range(len(POLICIES)), ids=["restless", "arms", "compares", "online"])
def consumer(request: pytest.FixtureRequest, memory: Memory) -> Iterator[Consumer]:
    tracker = HybridTracker(policy=POLICIES[request.param](1), tile_pages=TILE_PAGES)
    yield Consumer(tracker, memory)
    tracker.stop()


def test_first_answer_is_all_dirty(consumer: Consumer) -> None:
    first = consumer.tracker.collect()
    assert isinstance(first, AllDirty)
    assert first.reason is Reason.FIRST


def test_written_pages_are_reported(consumer: Consumer) -> None:
    for number in range(20):
        for page in (5, 6, 63 - number):
            consumer.memory.write(page * PAGE + number, number + 1)
        runs = consumer.scan()
        assert all(page in runs for page in (5, 6, 63 - number))
        consumer.check()
        for _ in range(number % 4):
            consumer.scan()


def test_restored_pages_are_reported_again(consumer: Consumer) -> None:
    for number in range(20):
        consumer.memory.write(number * PAGE, number + 1)
        runs = consumer.scan(fail=True)
        assert number in runs
        again = consumer.scan()
        assert not runs.difference(again)
        consumer.check()
        consumer.scan(wait=True)


def test_pages_outside_the_window_are_kept(consumer: Consumer) -> None:
    for number in range(20):
        consumer.memory.write(3 * PAGE, number + 1)
        consumer.memory.write(40 * PAGE, number + 1)
        assert 3 in consumer.scan((0, 10))
        consumer.scan((10, 20))
        assert 40 in consumer.scan((20, PAGES))
        consumer.scan()
        consumer.check()


def test_stopped_tracker_can_be_started_again(consumer: Consumer) -> None:
    for number in range(3):
        for _ in range(4):
            consumer.scan()
        consumer.tracker.stop()
        consumer.memory.write(PAGE, number + 1)
        consumer.tracker.start(consumer.memory.extent)
        assert isinstance(consumer.tracker.collect(), AllDirty)
        consumer.scan(fail=True)


STEPS: Final = st.one_of(
    st.tuples(st.just("write"), st.lists(st.integers(0, PAGES * PAGE - 1), min_size=1, max_size=5)),
    st.tuples(st.just("scan"), st.sampled_from(get_args(Feedback))),
    st.tuples(st.just("window"), st.tuples(st.integers(0, PAGES - 1), st.integers(1, PAGES))),
    st.tuples(st.just("fail"), st.none()),
    st.tuples(st.just("wait"), st.none()),
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 1 << 16),
    policy=st.sampled_from([Restless, POLICIES[-1]]),
    steps=st.lists(STEPS, max_size=40),
)
def test_consumer_that_reads_reported_pages_has_the_memory(
    memory: Memory, seed: int, policy: Callable[[int], Policy], steps: list[tuple[str, object]]
) -> None:
    consumer = Consumer(HybridTracker(policy=policy(seed), tile_pages=TILE_PAGES), memory)
    value = 0
    try:
        for step in steps:
            match step:
                case "write", list(places):
                    for place in places:
                        value = value % 255 + 1
                        memory.write(place, value)
                case "scan", str(feedback):
                    consumer.scan(feedback=feedback)  # type: ignore[arg-type]
                case "window", (int(first), int(pages)):
                    consumer.scan((first, min(first + pages, PAGES)))
                case "fail", _:
                    consumer.scan(fail=True)
                case "wait", _:
                    consumer.scan(wait=True)
        consumer.scan()
        consumer.check()
    finally:
        consumer.tracker.stop()


@pytest.mark.stress
@pytest.mark.parametrize("feedback", get_args(Feedback))
@pytest.mark.parametrize("factory", [other_anonymous, other_memfd], ids=lambda p: p.__name__)
def test_no_write_is_missed_in_thousands_of_transitions(
    factory: Callable[[Path], AbstractContextManager[Memory]],
    feedback: Feedback,
    tmp_path: Path,
    stress: int,
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    with factory(tmp_path) as memory:
        tracker = HybridTracker(policy=Restless(seed), tile_pages=TILE_PAGES)
        consumer = Consumer(tracker, memory)
        for _ in range(1000 * stress):
            for _ in range(chance.choice([0, 0, 1, 3, 20])):
                place = chance.choice([chance.randrange(PAGES * PAGE), chance.randrange(8 * PAGE)])
                memory.write(place, chance.randrange(256))
            for _ in range(chance.choice([1, 1, 5])):
                consumer.scan(feedback=feedback, wait=chance.random() < 0.1)
            consumer.check()
        tracker.stop()
    counts = consumer.seen
    assert all(counts[what] >= 10 for what in (Reason.ARMED, Reason.WOKEN, "unprotected", "logged")), counts


@pytest.mark.parametrize("factory", [own, other_anonymous], ids=lambda p: p.__name__)
def test_tiles_of_a_video_are_unprotected_until_it_stops(
    factory: Callable[[Path], AbstractContextManager[Memory]], tmp_path: Path
) -> None:
    """The costs make unprotected tiles pay. Memory that can be armed, and memory that cannot."""
    costs = Costs(
        fault_us=1, page_us=0.3, protect_us=100, scan_us=50, arm_us=500, hand_over_us=500, held_us=150
    )
    video = PageRuns([(16, 32)])
    with factory(tmp_path) as memory:
        tracker = HybridTracker(policy=OnlinePolicy(), tile_pages=16, costs=costs)
        consumer = Consumer(tracker, memory)
        consumer.scan()
        for number in range(2000):
            for first, last in video:
                for page in range(first, last):
                    memory.write(page * PAGE, number % 256)
            consumer.scan()
            if tracker.unprotected:
                break
        assert tracker.unprotected == video
        memory.write(40 * PAGE, 1)
        assert consumer.scan() == PageRuns([(16, 32), (40, 41)])
        for _ in range(2000):
            consumer.scan()
            if not tracker.unprotected:
                break
        assert tracker.unprotected == NO_PAGES
        consumer.scan()
        memory.write(17 * PAGE, 77)
        consumer.scan()
        consumer.check()
        tracker.stop()
