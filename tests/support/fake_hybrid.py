"""Fake log, watchdog and policy for HybridTracker, which record their calls in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vramtap.linux.inject import Fetched
from vramtap.memory.extent import Extent
from vramtap.pages import NO_PAGES, PageRuns
from vramtap.policy.costs import Costs
from vramtap.policy.decide import Counts, State

if TYPE_CHECKING:
    from collections.abc import Callable

    from vramtap.trackers.base import AllDirty, Waker

PAGES, TILE_PAGES = 12, 4
COSTS = Costs(1, 1, 1, 1, 1, 1, 1)


class Space:
    name = "target"
    pid: int | None = 1
    bytes_read = 0
    events = None
    frames = None

    def read_runs(self, *arguments: object) -> None:
        raise AssertionError("the tracker must not read memory")


EXTENT = Extent(Space(), 0x10000, PAGES)


class LogsWaker:
    fd = None

    def cancel(self) -> None:
        """Do nothing."""


LOGS_WAKER = LogsWaker()


class World:
    """State of the fakes, and their calls in order."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.fail: dict[str, BaseException] = {}
        """Exception that a call raises, once."""
        self.written = NO_PAGES
        self.unknown: AllDirty | None = None
        self.restored = NO_PAGES
        self.hole = False
        self.fired = False
        self.answers = True
        self.is_ready = True
        self.where = 0
        self.lives = True

    def record(self, what: str) -> None:
        self.calls.append(what)
        if what in self.fail:
            raise self.fail.pop(what)

    def take_calls(self) -> list[str]:
        calls, self.calls = self.calls, []
        return calls


class FakeLog:
    """Fake `LogTracker`."""

    stopped_us = 0.0
    read_from = EXTENT

    def __init__(self, world: World) -> None:
        self.world = world

    def start_fetched(self, extent: Extent, fetch: object) -> Fetched:
        return Fetched(-1, 0.0, FakeWatchdog(self.world))  # type: ignore[arg-type]

    @property
    def is_mapped(self) -> bool:
        self.world.record("is_mapped")
        return not self.world.hole

    @property
    def has_pending(self) -> bool:
        return self.world.unknown is not None or bool(self.world.restored)

    def collect(self, window: object = None, *, exclude: PageRuns) -> PageRuns | AllDirty:
        self.world.record("collect")
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
        self.world.record("suspend")
        self.world.unknown = why

    def resume(self, why: AllDirty) -> AllDirty:
        self.world.record("resume")
        self.world.unknown = why
        return why

    def restore(self, runs: PageRuns) -> None:
        self.world.restored = self.world.restored.union(runs)

    def wake(self, callback: Callable[[], None]) -> Waker:
        return LOGS_WAKER

    def stop(self) -> None:
        self.world.record("disarm")


class Guard:
    def __init__(self, world: World) -> None:
        self.world = world

    def __getattr__(self, name: str) -> Callable[[int, int], None]:
        def record(start: int, end: int) -> None:
            assert (start, end) == (EXTENT.address, EXTENT.end)
            self.world.record(name)

        return record


class FakeWatchdog:
    """Fake `Watchdog`."""

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
        self.world.record("ready")
        return self.world.is_ready

    def wait_released(self, timeout_s: float) -> bool:
        self.world.record("wait_released")
        return self.world.answers

    def acknowledge(self) -> None:
        self.world.record("acknowledge")
        self.world.fired = False

    def ping(self) -> None:
        self.world.record("ping")

    def fileno(self) -> int:
        return 4712

    def close(self) -> None:
        self.world.record("close")


class FakePolicy:
    """Policy that returns the state set by the test and records its arguments."""

    name = "fake"

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

    def unprotects(self, *tiles: int) -> None:
        self.next = State(np.isin(np.arange(3), tiles))

    def arms(self) -> None:
        self.next = State(np.zeros(3, np.bool_), armed=True)
