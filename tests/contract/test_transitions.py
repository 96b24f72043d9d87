"""The contract of `Tracker`, kept by a hybrid whatever its policy decides and whoever teaches it what."""

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
Teaching = Literal["honest", "never", "nothing", "too little"]
"""What the consumer tells of what changed: all, nothing at all, that nothing has, or only some."""


class Consumer:
    """Reads what is named, and nothing else; teaches the tracker what it was told to teach."""

    def __init__(self, tracker: HybridTracker, memory: Memory) -> None:
        self.tracker = tracker
        self.memory = memory
        self.mine = np.zeros(PAGES * PAGE, dtype=np.uint8)
        self.seen: Counter[str] = Counter()
        """How often it was armed and woken, and how many tiles were opened and closed."""
        tracker.start(memory.extent)

    def look(
        self,
        window: tuple[int, int] = (0, PAGES),
        teaching: Teaching = "honest",
        *,
        fail: bool = False,
        wait: bool = False,
    ) -> PageRuns:
        """Collect and read, until there is no more; returns the pages that were named.

        Args:
            window: As for `collect`.
            teaching: What is told of it.
            fail: Nothing is read, and all given back.
            wait: Ask for a waker, and let go of it.
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
            if self.tracker.wants_feedback and teaching != "never":
                self.tracker.feedback(self._taught(old, teaching))
        after = self.tracker.unprotected
        self.seen["opened"] += after.difference(before).count
        self.seen["closed"] += before.difference(after).count
        if self.tracker.has_more:
            return runs.union(self.look(window, teaching, fail=fail))
        return runs

    def _taught(self, old: np.ndarray, teaching: Teaching) -> PageRuns:
        changed = (old != self.mine).reshape(PAGES, PAGE).any(axis=1)
        if teaching == "nothing":
            return NO_PAGES
        if teaching == "too little":
            changed &= np.arange(PAGES) % 2 == 0
        return PageRuns.from_mask(changed)

    def check(self) -> None:
        """It has the memory."""
        truth = np.zeros_like(self.mine)
        self.memory.extent.read(PageRuns.full(PAGES), truth)
        wrong = np.flatnonzero((truth != self.mine).reshape(PAGES, PAGE).any(axis=1))
        assert not len(wrong), f"pages {wrong.tolist()} are not as they are in the memory; {self.seen}"


@dataclass(frozen=True, slots=True)
class _RestlessState(State):
    looks: int = 0


class Restless:
    """Opens and closes tiles at random, and often enough closes all of them and arms.

    Args:
        seed: Of the random numbers.
    """

    name = "restless"

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def start(self, pages: Counts, costs: Costs) -> State:
        return _RestlessState(np.zeros(len(pages), dtype=np.bool_))

    def step(self, state: State, dirty: Counts) -> State:
        assert isinstance(state, _RestlessState)
        chance = np.random.default_rng((self._seed, state.looks))
        opened, armed = state.unprotected, False
        match chance.integers(4):
            case 0:
                opened = opened ^ (chance.random(len(opened)) < 0.2)
            case 1:
                opened = np.zeros_like(opened)
            case _:
                armed = True
        return _RestlessState(opened, armed, looks=state.looks + 1)

    def woken(self, state: State, slept_s: float | None = None) -> State:
        assert isinstance(state, _RestlessState)
        return _RestlessState(np.zeros_like(state.unprotected), looks=state.looks)


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


def test_the_first_answer_is_everything(consumer: Consumer) -> None:
    first = consumer.tracker.collect()
    assert isinstance(first, AllDirty)
    assert first.reason is Reason.FIRST


def test_written_pages_are_named(consumer: Consumer) -> None:
    for number in range(20):
        for page in (5, 6, 63 - number):
            consumer.memory.write(page * PAGE + number, number + 1)
        runs = consumer.look()
        assert all(page in runs for page in (5, 6, 63 - number))
        consumer.check()
        for _ in range(number % 4):
            consumer.look()


def test_what_is_restored_is_named_again(consumer: Consumer) -> None:
    for number in range(20):
        consumer.memory.write(number * PAGE, number + 1)
        runs = consumer.look(fail=True)
        assert number in runs
        again = consumer.look()
        assert not runs.difference(again)
        consumer.check()
        consumer.look(wait=True)


def test_a_window_leaves_the_rest(consumer: Consumer) -> None:
    for number in range(20):
        consumer.memory.write(3 * PAGE, number + 1)
        consumer.memory.write(40 * PAGE, number + 1)
        assert 3 in consumer.look((0, 10))
        consumer.look((10, 20))
        assert 40 in consumer.look((20, PAGES))
        consumer.look()
        consumer.check()


def test_after_disarm_it_can_be_armed_again(consumer: Consumer) -> None:
    for number in range(3):
        for _ in range(4):
            consumer.look()
        consumer.tracker.stop()
        consumer.memory.write(PAGE, number + 1)
        consumer.tracker.start(consumer.memory.extent)
        assert isinstance(consumer.tracker.collect(), AllDirty)
        consumer.look(fail=True)


STEPS: Final = st.one_of(
    st.tuples(st.just("write"), st.lists(st.integers(0, PAGES * PAGE - 1), min_size=1, max_size=5)),
    st.tuples(st.just("look"), st.sampled_from(get_args(Teaching))),
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
def test_a_consumer_that_reads_what_is_named_has_the_memory(
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
                case "look", str(teaching):
                    consumer.look(teaching=teaching)  # type: ignore[arg-type]
                case "window", (int(first), int(pages)):
                    consumer.look((first, min(first + pages, PAGES)))
                case "fail", _:
                    consumer.look(fail=True)
                case "wait", _:
                    consumer.look(wait=True)
        consumer.look()
        consumer.check()
    finally:
        consumer.tracker.stop()


@pytest.mark.stress
@pytest.mark.parametrize("teaching", get_args(Teaching))
@pytest.mark.parametrize("factory", [other_anonymous, other_memfd], ids=lambda p: p.__name__)
def test_nothing_is_lost_in_thousands_of_transitions(
    factory: Callable[[Path], AbstractContextManager[Memory]],
    teaching: Teaching,
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
                consumer.look(teaching=teaching, wait=chance.random() < 0.1)
            consumer.check()
        tracker.stop()
    counts = consumer.seen
    assert all(counts[what] >= 10 for what in (Reason.ARMED, Reason.WOKEN, "opened", "closed")), counts


@pytest.mark.parametrize("factory", [own, other_anonymous], ids=lambda p: p.__name__)
def test_tiles_of_a_video_are_opened_and_closed_when_it_stops(
    factory: Callable[[Path], AbstractContextManager[Memory]], tmp_path: Path
) -> None:
    """With costs of a machine where opening pays, and whether the extent can be armed or not."""
    costs = Costs(
        fault_us=1, page_us=0.3, protect_us=100, look_us=50, arm_us=500, hand_over_us=500, held_us=150
    )
    video = PageRuns([(16, 32)])
    with factory(tmp_path) as memory:
        tracker = HybridTracker(policy=OnlinePolicy(), tile_pages=16, costs=costs)
        consumer = Consumer(tracker, memory)
        consumer.look()
        for number in range(2000):
            for first, last in video:
                for page in range(first, last):
                    memory.write(page * PAGE, number % 256)
            consumer.look()
            if tracker.unprotected:
                break
        assert tracker.unprotected == video
        memory.write(40 * PAGE, 1)
        assert consumer.look() == PageRuns([(16, 32), (40, 41)])
        for _ in range(2000):
            consumer.look()
            if not tracker.unprotected:
                break
        assert tracker.unprotected == NO_PAGES
        consumer.look()
        memory.write(17 * PAGE, 77)
        consumer.look()
        consumer.check()
        tracker.stop()
