"""Optimum: lower and upper bound of the cheapest schedule of a trace, computed from the whole trace.

The cost is the one that `replay` charges. A schedule decides which tiles are unprotected at each scan, and
after which scans that find nothing the extent is armed. A policy that rests skips scans, so it may cost less;
it reports changes late instead. Two facts make the optimum hard to find. Both are handled so that the lower
bound holds.

**The call is shared.** One call protects all tiles that were hit or closed in a scan, at one price. Split
this price over the tiles in any way, with parts that are at least 0 and add up to the price at each scan, and
let each tile that uses the call pay its part. Then no schedule pays more than its true cost. So for every
split the sum of the tiles' own cheapest schedules is a **lower bound** (Lagrangian duality). The search
improves the split in multiplicative steps: a tile that pays where others do not gets a larger part in the
next round. The **upper bound** is the true cost, computed by `replay`, of the cheapest schedule found in
these rounds.

**Faults come late.** A page of a tile that has been unprotected ("opened") faults at its first write
after that. The lower bound charges the pages written in the first scan after the opening, which are all
protected then, and no later faults. The upper bound charges all faults. In the lower bound a tile has two
states, and its cheapest schedule follows scan by scan, with n pages of the tile, w pages written, and the
tile's part of the call's price:

    logged' = min(logged + w * (fault + page) + [w > 0] part,  open + n * page + part)        stay; close
    open'   = min(open + n * page,                             logged + n * page + w * fault)  stay; open

A tile is opened only at a scan with w > 0. Opened earlier, it would be read for nothing. So an open tile is
never worth more than n * fault compared with a logged one, and `ahead = open - logged` may be limited to this
value.

**Arming.** A gap is a run of scans that find nothing. It is armed from its first scan or not at all. Arming
later costs more scans and saves nothing: arming reads everything and leaves everything logged, whatever the
tiles do before it. So a schedule is a choice for each gap, armed or not, and the schedule of the tiles
between them.

A *hypothesis* is one choice for the gaps so far: its cost with all tiles logged, and the `ahead` of each
tile. A waking makes a new hypothesis, in which everything is logged, from the cheapest of all. After about
two scans of a gap that is not armed, every `ahead` reaches its limit; then the hypotheses differ by one
number only, and the cheapest remains. In shorter gaps, hypotheses that are not cheaper in any state of the
tiles are dropped: A replaces B if `cost(A) + sum(max(0, ahead(A) - ahead(B))) <= cost(B)`. If more than
`MAX_HYPOTHESES` remain, one hypothesis that is as cheap as any of them in every state replaces them, which is
still a lower bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from vramtap.errors import VramtapError
from vramtap.policy.decide import Counts, State
from vramtap.trace.replay import replay

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vramtap.policy.costs import Costs
    from vramtap.trace.trace import Trace

ROUNDS: Final = 8
"""Number of splits tried. Eight more raise the lower bound on the traces of the tests by less than 0.5 %."""
FIRST_STEP: Final = 4.0
"""Exponent of the multiplicative step in the first round. Later ones shrink with the root of the round's
number."""
UNHIT: Final = 0.05
"""Part of a tile that was not hit, relative to one that was, in the first round. It pays when the tile is
closed."""
CLOSE: Final = 1.001
"""Ratio of the bounds below which the search stops."""
LEAST: Final = 1e-9
"""Smallest share of the call's price that a tile has."""
MAX_HYPOTHESES: Final = 32
"""Largest number of hypotheses. On the traces of the tests one remains after every gap."""

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Chain = tuple[int, "Chain | None"]
"""The last armed gap, by its first scan, and the chain of the armed gaps before it."""


@dataclass(frozen=True, slots=True, eq=False)
class Optimum:
    """Bounds of the cheapest schedule, and the best schedule found.

    Args:
        lower_us: Lower bound: no schedule costs less, microseconds.
        upper_us: Cost of the best schedule found, microseconds.
        unprotected: Shape `(intervals, tiles)`: the schedule's unprotected tiles at each scan.
        armed: Scans after which the schedule arms, ascending.
    """

    lower_us: float
    upper_us: float
    unprotected: Flags
    armed: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Problem:
    """A trace and its costs, in the terms of the sums above; times in microseconds.

    Args:
        counts: Pages written, shape `(written, tiles)`: one row for each scan that finds writes.
        written: Shape `(written,)`: the scans of these rows.
        intervals: Number of scans.
        read_us: Shape `(tiles,)`: `n * page`.
        lazy_us: Shape `(tiles,)`: `n * fault`, the limit of `ahead`.
        fault_us: Weighted cost of a fault.
        page_us: Cost of reading a page.
        scan_us: Cost of a scan.
        arming_us: Cost of arming the extent.
        waking_us: Cost of a waking.
    """

    counts: Counts
    written: NDArray[np.int64]
    intervals: int
    read_us: Floats
    lazy_us: Floats
    fault_us: float
    page_us: float
    scan_us: float
    arming_us: float
    waking_us: float

    @classmethod
    def of(cls, trace: Trace, costs: Costs, tile_pages: int) -> _Problem:
        sizes = trace.tiles(tile_pages)
        written = np.flatnonzero(np.diff(trace.starts))
        return cls(
            trace.dirty(tile_pages)[written],
            written,
            trace.intervals,
            sizes * np.float64(costs.page_us),
            sizes * np.float64(costs.fault_weighted_us),
            costs.fault_weighted_us,
            costs.page_us,
            costs.scan_us,
            costs.arming_us(trace.pages),
            costs.waking_us(trace.pages),
        )

    def gaps(self) -> Iterator[tuple[int, int, int]]:
        """Yield for each row: its number, the first scan of the gap before it, and its own scan.

        The last item is for the gap at the end of the trace; its row and its scan do not exist.
        """
        first = 0
        for row, scan in enumerate([*self.written.tolist(), self.intervals]):
            yield row, first, scan
            first = scan + 1

    def quiet(self, ahead: Floats, part: Floats) -> tuple[Floats, Floats, Flags]:
        """Take a scan that finds nothing.

        Returns:
            Shape `(..., tiles)` each: the cost added to the logged state, the new `ahead`, and whether an
            open tile closes.
        """
        closing = ahead + (self.read_us + part)
        logged = np.minimum(0.0, closing)
        return logged, np.minimum(ahead + self.read_us - logged, self.lazy_us), closing < 0

    def busy(self, ahead: Floats, row: int, part: Floats) -> tuple[Floats, Floats, Flags, Flags]:
        """Take a scan that finds writes.

        Returns:
            As `quiet`, and whether an open tile stays open.
        """
        count = self.counts[row]
        hit = count > 0
        stay = count * (self.fault_us + self.page_us) + part * hit
        closing = ahead + (self.read_us + part)
        opening = np.where(hit, count * self.fault_us, self.lazy_us)
        logged = np.minimum(stay, closing)
        after = np.minimum(self.read_us + np.minimum(ahead, opening) - logged, self.lazy_us)
        return logged, after, closing < stay, ahead < opening


@dataclass(frozen=True, slots=True)
class _Split:
    """Parts of the call's price: at each scan that finds writes, and at each scan of the gap before it."""

    busy: Floats
    quiet: Floats


class _Hypotheses:
    """The hypotheses: their costs, and their `ahead`, shape `(hypotheses, tiles)`."""

    def __init__(self, problem: _Problem) -> None:
        self._problem = problem
        self.cost_us = np.zeros(1)
        self.ahead = problem.lazy_us[None, :]
        self.chains: list[Chain | None] = [None]

    def best(self) -> tuple[float, Chain | None]:
        """Return the lowest cost, and the armed gaps of its hypothesis."""
        totals = self.cost_us + np.minimum(self.ahead, 0.0).sum(axis=1)
        at = int(np.argmin(totals))
        return float(totals[at]), self.chains[at]

    def quiet(self, scans: int, part: Floats) -> None:
        """Take scans that find nothing."""
        self.cost_us = self.cost_us + scans * self._problem.scan_us
        for _ in range(scans):
            if (self.ahead == self._problem.lazy_us).all():
                break
            logged, self.ahead, _closed = self._problem.quiet(self.ahead, part)
            self.cost_us += logged.sum(axis=1)
        self._drop()

    def busy(self, row: int, part: Floats) -> None:
        """Take a scan that finds writes."""
        logged, self.ahead, _closed, _stays = self._problem.busy(self.ahead, row, part)
        self.cost_us = self.cost_us + logged.sum(axis=1) + self._problem.scan_us

    def add(self, cost_us: float, chain: Chain) -> None:
        """Add a hypothesis in which every tile is logged."""
        self.cost_us = np.append(self.cost_us, cost_us)
        self.ahead = np.vstack([self.ahead, self._problem.lazy_us])
        self.chains.append(chain)
        self._drop()

    def _drop(self) -> None:
        """Drop the hypotheses that are not cheaper in any state of the tiles."""
        if len(self.cost_us) < 2:
            return
        keep: list[int] = []
        for at in np.argsort(self.cost_us, kind="stable"):
            over = np.maximum(0.0, self.ahead[keep] - self.ahead[at]).sum(axis=1)
            if not (self.cost_us[keep] + over <= self.cost_us[at]).any():
                keep.append(int(at))
        self.cost_us, self.ahead = self.cost_us[keep], self.ahead[keep]
        self.chains = [self.chains[at] for at in keep]
        if len(keep) > MAX_HYPOTHESES:
            # The first one is the cheapest, and the least `ahead` of all makes it as cheap as any of them.
            self.cost_us, self.chains = self.cost_us[:1], self.chains[:1]
            self.ahead = self.ahead.min(axis=0, keepdims=True)


def _value(problem: _Problem, split: _Split) -> tuple[float, tuple[int, ...]]:
    """Return the least cost with this split of the call's price, and the scans after which it arms."""
    hypotheses = _Hypotheses(problem)
    for row, first, scan in problem.gaps():
        armed: tuple[float, Chain] | None = None
        if scan > first:
            hypotheses.quiet(1, split.quiet[row])
            cost_us, chain = hypotheses.best()
            armed = cost_us + problem.arming_us, (first, chain)
            hypotheses.quiet(scan - first - 1, split.quiet[row])
        if scan < problem.intervals:
            hypotheses.busy(row, split.busy[row])
            if armed is not None:
                hypotheses.add(armed[0] + problem.waking_us, armed[1])
        elif armed is not None and armed[0] < hypotheses.best()[0]:
            return armed[0], _unchained(armed[1])
    cost_us, chain = hypotheses.best()
    return cost_us, _unchained(chain)


def _unchained(chain: Chain | None) -> tuple[int, ...]:
    """Return the scans of a chain, ascending."""
    scans: list[int] = []
    while chain is not None:
        scan, chain = chain
        scans.append(scan)
    return tuple(reversed(scans))


def _schedule(problem: _Problem, split: _Split, armed: tuple[int, ...]) -> Flags:
    """Return each tile's cheapest schedule with these gaps armed.

    The choices are computed forward, and the schedule is then read backward along the best ones.
    """
    shape = problem.intervals, len(problem.read_us)
    closes, stays = np.zeros(shape, dtype=np.bool_), np.ones(shape, dtype=np.bool_)
    opened = np.zeros(shape, dtype=np.bool_)
    ahead, arms = problem.lazy_us, set(armed)
    begin = 0

    def back(last: int, state: Flags) -> None:
        for at in range(last, begin - 1, -1):
            opened[at] = state
            state = np.where(state, stays[at], closes[at])

    for row, first, scan in problem.gaps():
        for at in range(first, first + 1 if first in arms else scan):
            if (ahead == problem.lazy_us).all():
                break
            _, ahead, closes[at] = problem.quiet(ahead, split.quiet[row])
        if first in arms:
            back(first, ahead < 0)
            ahead, begin = problem.lazy_us, scan + 1
        elif scan < problem.intervals:
            _, ahead, closes[scan], stays[scan] = problem.busy(ahead, row, split.busy[row])
    back(problem.intervals - 1, ahead < 0)
    return opened


@dataclass(frozen=True, slots=True)
class _PlannedState(State):
    scan: int = 0


class Planned:
    """A schedule as a policy, so that `replay` charges it like any other. It fits the trace it was made for.

    Args:
        opened: Shape `(intervals, tiles)`: the unprotected tiles at each scan.
        armed: Scans after which it arms.
        written: Scans that find writes, ascending.
    """

    name: Final = "optimum"

    def __init__(self, opened: Flags, armed: tuple[int, ...], written: NDArray[np.int64]) -> None:
        self._opened, self._armed, self._written = opened, set(armed), written

    def _at(self, scan: int) -> State:
        return _PlannedState(self._opened[min(scan, len(self._opened) - 1)], scan=scan)

    def start(self, pages: Counts, costs: Costs) -> State:
        """See `Policy.start`."""
        return self._at(0)

    def step(self, state: State, dirty: Counts) -> State:
        """See `Policy.step`."""
        scan = _scan_of(state)
        if scan in self._armed:
            return _PlannedState(state.unprotected, armed=True, scan=scan)
        return self._at(scan + 1)

    def woken(self, state: State, slept_s: float | None = None) -> State:
        """See `Policy.woken`."""
        return self._at(int(self._written[np.searchsorted(self._written, _scan_of(state))]) + 1)


def _scan_of(state: State) -> int:
    if not isinstance(state, _PlannedState):
        raise TypeError(f"{type(state).__name__} is another policy's state")
    return state.scan


def optimum(trace: Trace, costs: Costs, tile_pages: int, rounds: int = ROUNDS) -> Optimum:
    """Bound the cost of the cheapest schedule.

    Args:
        trace: Trace with at least one interval.
        costs: Costs to charge.
        tile_pages: Pages of a tile.
        rounds: Number of splits tried after the first one. Both bounds hold for every number.

    Raises:
        VramtapError: The trace has no interval, or too many intervals for tiles of this size.
    """
    if not trace.intervals:
        raise VramtapError("optimum", "trace", "has no interval", "record a longer one")
    problem = _Problem.of(trace, costs, tile_pages)
    hit = problem.counts > 0
    busy: Floats = hit.astype(np.float64) + UNHIT
    # A tile that is closed in a gap is mostly one that was hit last. Before the first write no tile is open.
    quiet = np.vstack([np.ones((1, hit.shape[1])), busy])
    best: Optimum | None = None
    for number in range(1, 2 + rounds):
        busy, quiet = _parts(busy), _parts(quiet)
        split = _Split(costs.protect_us * busy, costs.protect_us * quiet)
        lower_us, armed = _value(problem, split)
        opened = _schedule(problem, split, armed)
        upper_us = replay(trace, Planned(opened, armed, problem.written), costs, tile_pages).total_us
        if best is None:
            best = Optimum(lower_us, upper_us, opened, armed)
        elif upper_us < best.upper_us:
            best = Optimum(max(lower_us, best.lower_us), upper_us, opened, armed)
        else:
            best = Optimum(max(lower_us, best.lower_us), best.upper_us, best.unprotected, best.armed)
        if best.upper_us <= best.lower_us * CLOSE:
            break
        step = FIRST_STEP / np.sqrt(number)
        paid_busy, paid_quiet = _paid(problem, hit, opened)
        busy, quiet = busy * np.exp(step * paid_busy), quiet * np.exp(step * paid_quiet)
    assert best is not None
    return best


def _parts(weight: Floats) -> Floats:
    """Return shares of the call's price. Each row adds up to 1, and no share is too small to grow again."""
    parts: Floats = np.maximum(weight / weight.sum(axis=1, keepdims=True), LEAST)
    parts /= parts.sum(axis=1, keepdims=True)
    return parts


def _paid(problem: _Problem, hit: Flags, opened: Flags) -> tuple[Flags, Flags]:
    """Return which tiles used the call, at each scan that finds writes and in the gap before it."""
    before = np.vstack([np.zeros((1, opened.shape[1]), dtype=np.bool_), opened[:-1]])
    closing = before & ~opened
    busy = closing[problem.written] | (hit & ~opened[problem.written])
    quiet = np.zeros((len(problem.written) + 1, opened.shape[1]), dtype=np.bool_)
    scans = np.setdiff1d(np.flatnonzero(closing.any(axis=1)), problem.written, assume_unique=True)
    np.logical_or.at(quiet, np.searchsorted(problem.written, scans), closing[scans])
    return busy, quiet
