"""Replay: what a policy would have cost on a recorded trace, look by look."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vramtap.policy.costs import Costs
    from vramtap.policy.decide import Policy
    from vramtap.trace.trace import Trace

NS_A_S: Final = 1e9
NS_A_MS: Final = 1e6


@dataclass(frozen=True, slots=True)
class Replayed:
    """What one policy cost on one trace.

    Args:
        policy: Its name.
        ours_us: Our time, microseconds.
        guest_us: The writer's time, microseconds, not weighted.
        total_us: Our time and the writer's, weighted.
        intervals: Of the trace.
        looks: How many were taken; neither while armed nor while resting.
        armed_s: For how long the extent was armed, seconds.
        armings: How often it was armed.
        woken: How often a write ended that.
        opened: How often a tile was opened.
        closed: How often one was protected again.
        first_updates: Writes after a look that had found nothing, or to an armed extent.
        first_ms: By how much later than at the end of their interval they were reported, milliseconds, the
            median; not 0 for policies that rest. 0 without any.
        first_p99_ms: The 99th percentile of the same.
    """

    policy: str
    ours_us: float
    guest_us: float
    total_us: float
    intervals: int
    looks: int
    armed_s: float
    armings: int
    woken: int
    opened: int
    closed: int
    first_updates: int
    first_ms: float
    first_p99_ms: float

    @property
    def interval_us(self) -> float:
        """The total for each interval of the trace, microseconds."""
        return self.total_us / self.intervals if self.intervals else 0.0

    def ratio(self, optimum_us: float) -> float:
        """The total against the cheapest there is; 1.0 where neither costs anything."""
        if optimum_us <= 0:
            return 1.0 if self.total_us <= 0 else float("inf")
        return self.total_us / optimum_us


class _Account:
    """What is paid, and which pages are protected: every charge of the model is made here and only here."""

    def __init__(self, sizes: NDArray[np.int64], costs: Costs) -> None:
        self._sizes, self._costs = sizes, costs
        self._pages = int(sizes.sum())
        self._tile = np.repeat(np.arange(len(sizes)), sizes)
        self._protected = np.ones(self._pages, dtype=np.bool_)
        self._open = np.zeros(len(sizes), dtype=np.bool_)
        self._any_open = False
        self.ours_us = self.guest_us = 0.0
        self.looks = self.opened = self.closed = 0

    def look(self, now_open: NDArray[np.bool_], pages: NDArray[np.int64], dirty: NDArray[np.int64]) -> None:
        """A look at which the pages of the tiles in `now_open` are read unasked, all others logged."""
        costs = self._costs
        self.looks += 1
        self.ours_us += costs.look_us
        if not self._any_open and not now_open.any():
            if len(pages):
                self.guest_us += len(pages) * costs.fault_us
                self.ours_us += len(pages) * costs.page_us + costs.protect_us
            return
        closing = self._open & ~now_open
        whole = self._open | now_open
        faults = pages[self._protected[pages]]
        self.guest_us += len(faults) * costs.fault_us
        logged = int(dirty[~whole].sum())
        self.ours_us += costs.page_us * (logged + int(self._sizes[whole].sum()))
        if logged or closing.any():
            self.ours_us += costs.protect_us
        self._protected[faults] = False
        self._protected[~now_open[self._tile]] = True
        self.opened += int(np.count_nonzero(now_open & ~self._open))
        self.closed += int(np.count_nonzero(closing))
        self._open, self._any_open = now_open, bool(now_open.any())

    def arm(self) -> None:
        """All is protected, and compared once more to prove it."""
        self.ours_us += self._costs.arming_us(self._pages)

    def wake(self) -> None:
        """The first write to an armed extent: all is logged again, and compared to close the gap."""
        self.guest_us += self._costs.held_us
        self.ours_us += self._costs.hand_over_us + self._costs.page_us * self._pages
        self._protected[:] = True
        self._open, self._any_open = np.zeros_like(self._open), False


def replay(trace: Trace, policy: Policy, costs: Costs, tile_pages: int) -> Replayed:
    """Run a policy over a trace.

    At the trace's begin everything is protected and was read once, which is charged to nobody. A page that is
    written counts as changed: the trace does not know better. A look that is left out by a policy that rests
    leaves its writes to the next one; a page written in several of its intervals faults once.

    Args:
        trace: What was written when.
        policy: Decides after each look.
        costs: What is charged.
        tile_pages: Pages a tile; see `Trace.tiles`.

    Raises:
        VramtapError: the trace is too long for tiles so small.
    """
    sizes, counts = trace.tiles(tile_pages), trace.dirty(tile_pages)
    written = np.flatnonzero(np.diff(trace.starts))
    account = _Account(sizes, costs)
    state = policy.start(sizes, costs)
    nothing = np.zeros(0, dtype=np.int64)
    at_ns, none = trace.at_ns, np.zeros(len(sizes), dtype=np.int64)
    armings = woken = 0
    armed_ns = 0
    first_ns: list[int] = []
    last_look_ns, quiet = 0, True
    missed: list[int] = []
    at = 0
    while at < trace.intervals:
        if state.armed:
            after = int(np.searchsorted(written, at))
            slept_from = int(at_ns[at - 1])
            if after == len(written):
                armed_ns += int(at_ns[-1]) - slept_from
                break
            at = int(written[after])
            slept_ns = int(at_ns[at]) - slept_from
            armed_ns += slept_ns
            woken += 1
            account.wake()
            state = policy.woken(state, slept_ns / NS_A_S)
            first_ns.append(0)
            last_look_ns, quiet = int(at_ns[at]), False
            at += 1
            continue
        dirty_here = trace.starts[at] < trace.starts[at + 1]
        resting = at_ns[at] - last_look_ns < state.rest_s * NS_A_S
        if resting:
            if dirty_here:
                missed.append(at)
            at += 1
            continue
        if dirty_here:
            missed.append(at)
        if not missed:
            pages, dirty = nothing, none
        elif len(missed) == 1:
            pages, dirty = _pages(trace, missed[0]), counts[missed[0]]
        else:
            pages = np.unique(np.concatenate([_pages(trace, interval) for interval in missed]))
            dirty = np.bincount(pages // tile_pages, minlength=len(sizes))
        if missed and quiet:
            first_ns.append(int(at_ns[at] - at_ns[missed[0]]))
        account.look(state.unprotected, pages, dirty)
        state = policy.step(state, dirty)
        if state.armed:
            account.arm()
            armings += 1
        last_look_ns, quiet = int(at_ns[at]), not missed
        missed = []
        at += 1
    delays = np.array(first_ns, dtype=np.float64) / NS_A_MS
    return Replayed(
        policy.name,
        account.ours_us,
        account.guest_us,
        account.ours_us + account.guest_us * costs.guest_cost_factor,
        trace.intervals,
        account.looks,
        armed_ns / NS_A_S,
        armings,
        woken,
        account.opened,
        account.closed,
        len(delays),
        float(np.median(delays)) if len(delays) else 0.0,
        float(np.percentile(delays, 99)) if len(delays) else 0.0,
    )


def _pages(trace: Trace, interval: int) -> NDArray[np.int64]:
    """The pages written in an interval, in order."""
    runs = trace.runs[trace.starts[interval] : trace.starts[interval + 1]].astype(np.int64)
    sizes = runs[:, 1] - runs[:, 0]
    skipped = runs[:, 0] - (np.cumsum(sizes) - sizes)
    pages: NDArray[np.int64] = np.arange(int(sizes.sum()), dtype=np.int64) + np.repeat(skipped, sizes)
    return pages
