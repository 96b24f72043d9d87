"""Taps whose hybrid tracker is forced from one state into another, and counts of the changes."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from support.testbed.require import require
from vramtap.errors import VramtapError
from vramtap.linux import abi
from vramtap.linux.calls import syscall
from vramtap.linux.userfaultfd import FULL_OPEN_FLAGS
from vramtap.policy.decide import Counts, Policy, State
from vramtap.tap.tap import Tap
from vramtap.tap.timings import DEFAULT_TIMINGS, TapTimings
from vramtap.targets.open import open_target
from vramtap.trackers.choose import Choice
from vramtap.trackers.userfault.hybrid import PAGE_TILE, HybridTracker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from vramtap.memory.extent import Extent
    from vramtap.policy.costs import Costs

PATIENCE_S: Final = 60.0
"""Time limit of all waits. A wait that takes longer hangs."""
_PHASE_SCANS: Final = 8
"""Number of scans in a phase of `ForcedPolicy`. To arm takes three scans, because the last unprotected tiles
are read once more. A policy that unprotected tiles at every scan would never arm."""


@dataclass(frozen=True, slots=True)
class _Forced(State):
    scans: int = 0
    wakings: int = 0


class ForcedPolicy:
    """Unprotects, protects and arms at random, in phases. In an arming phase all tiles are protected.

    Args:
        seed: Seed of the random numbers.
        turn: Probability that a tile changes its state at a scan outside of arming phases.
        arm: Probability that a phase is an arming phase.
    """

    name: Final = "forced"

    def __init__(self, seed: int, *, turn: float = 0.1, arm: float = 0.5) -> None:
        self._seed, self._turn, self._arm = seed, turn, arm

    def start(self, pages: Counts, costs: Costs) -> State:
        return _Forced(np.zeros(len(pages), dtype=np.bool_))

    def step(self, state: State, dirty: Counts) -> State:
        scans = state.scans + 1 if isinstance(state, _Forced) else 0
        phase = np.random.default_rng((self._seed, 0, scans // _PHASE_SCANS))
        if phase.random() < self._arm:
            return _Forced(np.zeros_like(state.unprotected), armed=not dirty.any(), scans=scans)
        turned = np.random.default_rng((self._seed, 1, scans)).random(len(state.unprotected)) < self._turn
        return _Forced(state.unprotected ^ turned, scans=scans)

    def woken(self, state: State, slept_s: float | None = None) -> State:
        scans = state.scans if isinstance(state, _Forced) else 0
        return _Forced(np.zeros_like(state.unprotected), scans=scans)


class ArmAtOnce:
    """Protects all tiles, and arms after the first scan that finds nothing.

    Args:
        once: Whether to arm only until the first wake-up.
    """

    name: Final = "arm-at-once"

    def __init__(self, *, once: bool = False) -> None:
        self._once = once

    def start(self, pages: Counts, costs: Costs) -> State:
        return _Forced(np.zeros(len(pages), dtype=np.bool_))

    def step(self, state: State, dirty: Counts) -> State:
        spent = self._once and isinstance(state, _Forced) and state.wakings > 0
        return replace(state, armed=not dirty.any() and not spent)

    def woken(self, state: State, slept_s: float | None = None) -> State:
        wakings = state.wakings if isinstance(state, _Forced) else 0
        return _Forced(state.unprotected, wakings=wakings + 1)


class Counted:
    """A policy, and the number of tiles it has unprotected and protected."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.opened = self.closed = 0

    @property
    def name(self) -> str:
        return self._policy.name

    def start(self, pages: Counts, costs: Costs) -> State:
        return self._policy.start(pages, costs)

    def step(self, state: State, dirty: Counts) -> State:
        return self._count(state, self._policy.step(state, dirty))

    def woken(self, state: State, slept_s: float | None = None) -> State:
        return self._count(state, self._policy.woken(state, slept_s))

    def _count(self, before: State, after: State) -> State:
        self.opened += int(np.count_nonzero(after.unprotected & ~before.unprotected))
        self.closed += int(np.count_nonzero(before.unprotected & ~after.unprotected))
        return after


@contextlib.asynccontextmanager
async def tapped(
    url: str,
    policy: Policy | None = None,
    *,
    kind: type[HybridTracker] = HybridTracker,
    timings: TapTimings = DEFAULT_TIMINGS,
    tile_pages: int = PAGE_TILE,
) -> AsyncIterator[tuple[Tap, HybridTracker]]:
    """Tap a target with a hybrid tracker that has this policy.

    Args:
        url: TARGET string.
        policy: The policy; by default the one that vramtap uses.
        kind: Class of the tracker.
        timings: Intervals of the tap.
        tile_pages: Size of the tiles in pages.
    """
    target = open_target(url)
    made = kind(policy=policy, allow_filtered=target.tolerates_injection, tile_pages=tile_pages)

    def choose(name: str, extent: Extent, **_: object) -> Choice:
        made.start(extent)
        return Choice(made, name)

    async with Tap(target, timings=timings, choose=choose) as tap:
        yield tap, made


def require_arming() -> None:
    """Require that this process may use a full userfaultfd, which arming needs; its children may then too."""
    refusal = ""
    try:
        os.close(syscall("userfaultfd", "self", abi.SYS_USERFAULTFD, FULL_OPEN_FLAGS))
    except VramtapError as error:
        refusal = str(error)
    require(not refusal, f"synchronous write protection: {refusal} (CAP_SYS_PTRACE)")


async def until(happened: Callable[[], bool], interval_s: float = DEFAULT_TIMINGS.interval_s) -> None:
    """Wait for a condition, checked at this interval.

    Raises:
        TimeoutError: it did not become true in time.
    """
    async with asyncio.timeout(PATIENCE_S):
        while not happened():  # noqa: ASYNC110 - a tap sets no event
            await asyncio.sleep(interval_s)


async def asleep(tap: Tap) -> None:
    """Wait until the tap waits for a wake-up.

    Raises:
        TimeoutError: it did not in time.
    """
    await until(lambda: tap._waker is not None)


async def armed(tap: Tap, tracker: HybridTracker) -> None:
    """Wait until the extent is armed and the tap waits for the tracker's descriptor.

    Raises:
        TimeoutError: it did not in time.
    """
    await until(lambda: tracker.armed)
    await asleep(tap)
