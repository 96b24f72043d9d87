"""Replay: what a policy would have cost on a recorded trace, interval by interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vramtap.policy.costs import Costs
    from vramtap.policy.decide import Policy, State
    from vramtap.trace.trace import Trace

NS_A_S: Final = 1e9
NS_A_MS: Final = 1e6


@dataclass(frozen=True, slots=True)
class Replayed:
    """What one policy cost on one trace.

    Args:
        policy: Name of the policy.
        vramtap_us: vramtap's time, microseconds.
        guest_us: The guest's time, microseconds, not weighted.
        total_us: vramtap's time and the weighted time of the guest, microseconds.
        intervals: Number of intervals of the trace.
        scans: Number of scans; none while armed or resting.
        armed_s: Time for which the extent was armed, seconds.
        armings: Number of armings.
        woken: Number of armings that a write ended.
        unprotected: How often a tile was unprotected.
        protected: How often an unprotected tile was protected again.
        first_updates: Number of writes after a scan that found nothing, or to an armed extent.
        first_ms: Median delay of their reports after the end of their intervals, milliseconds. It is not 0
            for policies that rest; 0 without such writes.
        first_p99_ms: 99th percentile of the same delay.
    """

    policy: str
    vramtap_us: float
    guest_us: float
    total_us: float
    intervals: int
    scans: int
    armed_s: float
    armings: int
    woken: int
    unprotected: int
    protected: int
    first_updates: int
    first_ms: float
    first_p99_ms: float

    @property
    def interval_us(self) -> float:
        """Total cost for each interval of the trace, microseconds."""
        return self.total_us / self.intervals if self.intervals else 0.0

    def ratio(self, optimum_us: float) -> float:
        """Return the total cost relative to the optimum; 1.0 if both are 0."""
        if optimum_us <= 0:
            return 1.0 if self.total_us <= 0 else float("inf")
        return self.total_us / optimum_us


class _Account:
    """The costs so far, and the protected pages. All charges of the cost model are here."""

    def __init__(self, sizes: NDArray[np.int64], costs: Costs) -> None:
        self._sizes, self._costs = sizes, costs
        self._pages = int(sizes.sum())
        self._tile = np.repeat(np.arange(len(sizes)), sizes)
        self._protected = np.ones(self._pages, dtype=np.bool_)
        self._open = np.zeros(len(sizes), dtype=np.bool_)
        self._any_open = False
        self.vramtap_us = self.guest_us = 0.0
        self.scans = self.unprotected = self.protected = 0

    def scan(self, now_open: NDArray[np.bool_], pages: NDArray[np.int64], dirty: NDArray[np.int64]) -> None:
        """Charge a scan.

        Args:
            now_open: Shape `(tiles,)`: tiles that are unprotected, whose pages are all read. The others are
            logged.
            pages: Pages written since the last scan, ascending.
            dirty: Shape `(tiles,)`: number of these pages in each tile.
        """
        costs = self._costs
        self.scans += 1
        self.vramtap_us += costs.scan_us
        if not self._any_open and not now_open.any():
            if len(pages):
                self.guest_us += len(pages) * costs.fault_us
                self.vramtap_us += len(pages) * costs.page_us + costs.protect_us
            return
        closing = self._open & ~now_open
        whole = self._open | now_open
        faults = pages[self._protected[pages]]
        self.guest_us += len(faults) * costs.fault_us
        logged = int(dirty[~whole].sum())
        self.vramtap_us += costs.page_us * (logged + int(self._sizes[whole].sum()))
        if logged or closing.any():
            self.vramtap_us += costs.protect_us
        self._protected[faults] = False
        self._protected[~now_open[self._tile]] = True
        self.unprotected += int(np.count_nonzero(now_open & ~self._open))
        self.protected += int(np.count_nonzero(closing))
        self._open, self._any_open = now_open, bool(now_open.any())

    def arm(self) -> None:
        """Charge an arming: all pages are protected, and compared once more to prove that nothing changed."""
        self.vramtap_us += self._costs.arming_us(self._pages)

    def wake(self) -> None:
        """Charge the first write to an armed extent: all pages are logged again, and compared once more."""
        self.guest_us += self._costs.held_us
        self.vramtap_us += self._costs.hand_over_us + self._costs.page_us * self._pages
        self._protected[:] = True
        self._open, self._any_open = np.zeros_like(self._open), False


def replay(trace: Trace, policy: Policy, costs: Costs, tile_pages: int) -> Replayed:
    """Run a policy over a trace.

    At the begin of the trace all pages are protected and have been read once, which is not charged. A written
    page counts as changed, because a trace has no pixels. A policy that rests skips scans. The writes of a
    skipped scan are found by the next one, and a page written in several skipped intervals faults once.

    Args:
        trace: The trace.
        policy: Decides after each scan.
        costs: Costs to charge.
        tile_pages: Pages of a tile; see `Trace.tiles`.

    Raises:
        VramtapError: The trace has too many intervals for tiles of this size.
    """
    return _Replay(trace, policy, costs, tile_pages).run()


class _Replay:
    """One replay. Its time is the trace's, its position the next interval."""

    def __init__(self, trace: Trace, policy: Policy, costs: Costs, tile_pages: int) -> None:
        self._trace, self._policy, self._costs, self._tile_pages = trace, policy, costs, tile_pages
        self._sizes, self._counts = trace.tiles(tile_pages), trace.dirty(tile_pages)
        self._written = np.flatnonzero(np.diff(trace.starts))
        self._account = _Account(self._sizes, costs)
        self._at = 0
        self._missed: list[int] = []
        """Intervals with writes since the last scan."""
        self._last_scan_ns = 0
        self._quiet = True
        """Whether the last scan found nothing."""
        self._armings = self._woken = self._armed_ns = 0
        self._first_ns: list[int] = []

    def run(self) -> Replayed:
        state = self._policy.start(self._sizes, self._costs)
        while self._at < self._trace.intervals:
            state = self._sleep(state) if state.armed else self._interval(state)
        account, costs = self._account, self._costs
        delays = np.array(self._first_ns, dtype=np.float64) / NS_A_MS
        return Replayed(
            self._policy.name,
            account.vramtap_us,
            account.guest_us,
            account.vramtap_us + account.guest_us * costs.guest_cost_factor,
            self._trace.intervals,
            account.scans,
            self._armed_ns / NS_A_S,
            self._armings,
            self._woken,
            account.unprotected,
            account.protected,
            len(delays),
            float(np.median(delays)) if len(delays) else 0.0,
            float(np.percentile(delays, 99)) if len(delays) else 0.0,
        )

    def _sleep(self, state: State) -> State:
        """Skip to the next interval with a write, which wakes the tap; or to the end of the trace."""
        at_ns, written = self._trace.at_ns, self._written
        armed_from_ns = int(at_ns[self._at - 1])
        after = int(np.searchsorted(written, self._at))
        if after == len(written):
            self._armed_ns += int(at_ns[-1]) - armed_from_ns
            self._at = self._trace.intervals
            return state
        interval = int(written[after])
        slept_ns = int(at_ns[interval]) - armed_from_ns
        self._armed_ns += slept_ns
        self._woken += 1
        self._account.wake()
        self._first_ns.append(0)
        self._last_scan_ns, self._quiet = int(at_ns[interval]), False
        self._at = interval + 1
        return self._policy.woken(state, slept_ns / NS_A_S)

    def _interval(self, state: State) -> State:
        """Take the next interval, and scan at its end unless the policy rests."""
        trace, at = self._trace, self._at
        self._at += 1
        if trace.starts[at] < trace.starts[at + 1]:
            self._missed.append(at)
        now_ns = int(trace.at_ns[at])
        if now_ns - self._last_scan_ns < state.rest_s * NS_A_S:
            return state
        missed, self._missed = self._missed, []
        if missed and self._quiet:
            self._first_ns.append(now_ns - int(trace.at_ns[missed[0]]))
        pages, dirty = self._written_in(missed)
        self._account.scan(state.unprotected, pages, dirty)
        self._last_scan_ns, self._quiet = now_ns, not missed
        after = self._policy.step(state, dirty)
        if after.armed:
            self._account.arm()
            self._armings += 1
        return after

    def _written_in(self, intervals: list[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the pages written in any of these intervals, ascending, and their number in each tile."""
        if not intervals:
            return np.zeros(0, dtype=np.int64), np.zeros(len(self._sizes), dtype=np.int64)
        if len(intervals) == 1:
            return _pages(self._trace, intervals[0]), self._counts[intervals[0]]
        pages = np.unique(np.concatenate([_pages(self._trace, interval) for interval in intervals]))
        return pages, np.bincount(pages // self._tile_pages, minlength=len(self._sizes))


def _pages(trace: Trace, interval: int) -> NDArray[np.int64]:
    """Return the pages written in an interval, ascending."""
    runs = trace.runs[trace.starts[interval] : trace.starts[interval + 1]].astype(np.int64)
    sizes = runs[:, 1] - runs[:, 0]
    skipped = runs[:, 0] - (np.cumsum(sizes) - sizes)
    pages: NDArray[np.int64] = np.arange(int(sizes.sum()), dtype=np.int64) + np.repeat(skipped, sizes)
    return pages
