"""Optimum: the cheapest schedule of a trace, made with all of it known; bounded from below and from above.

What is minimised is what `replay` charges, over all that can be decided: which tiles are open at each look,
and after which looks that find nothing the extent is armed. (A policy that rests leaves looks out and may
cost less; it is late instead.) Two things make it hard, and each is dealt with so that the lower bound
holds.

**The call is shared.** One call protects whatever was hit or closed in a look, at one price. Split that
price in any way over the tiles, in parts that are at least 0 and add up to it at each look, and let each
tile that makes use of the call pay its part: no schedule then pays more than it does. So the sum of the
tiles' own cheapest schedules is a **lower bound** for every split (Lagrangian duality). It is looked for by
multiplicative steps: a tile that pays where others do not gets a larger part in the next round. The **upper
bound** is the true cost, by `replay`, of the cheapest of the schedules found on the way.

**Opening is lazy.** A page of an open tile faults at its first write after the opening. The lower bound
counts the pages written in the first open look, all protected then, and leaves out the later ones; the
upper bound has them all. With that a tile has two states, and its cheapest schedule follows look by look:

    logged' = min(logged + w * (fault + page) + [w > 0] part,  open + n * page + part)        stay; close
    open'   = min(open + n * page,                             logged + n * page + w * fault)  stay; open

A tile is opened only at a look with w > 0: opened earlier, it would be read for nothing. So being open is
never worth more than n * fault beside being logged, and `ahead = open - logged` may be cut there.

**Arming.** A gap, a run of looks that find nothing, is armed from its first look or not at all: armed
later, it costs more looks and saves nothing, since whatever the tiles do in between, arming reads
everything and leaves everything logged. Hence a schedule is, for each gap, armed or not, and the tiles in
between. A *hypothesis* is one choice for the gaps so far: its cost, with all tiles logged, and each tile's
`ahead`. Waking makes one in which everything is logged, from the cheapest of all. After two or so looks of
a gap in which nothing is armed every `ahead` reaches its limit; then all hypotheses differ by one number,
and the cheapest is left. In shorter gaps those are left out that cost no less in any state of the tiles: A
replaces B if `cost(A) + sum(max(0, ahead(A) - ahead(B))) <= cost(B)`. If more than `MAX_HYPOTHESES` are
left they are replaced by one that is as cheap in every state as any of them: still a lower bound.
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
"""Splits tried; on the traces of the tests the lower bound rises by less than 0.5 % in eight more."""
FIRST_STEP: Final = 4.0
"""Exponent of the first round's multiplicative step; the later ones shrink with the root of their number."""
UNHIT: Final = 0.05
"""Part of a tile that was not hit, for when it is closed, against one that was; where the rounds begin."""
CLOSE: Final = 1.001
"""Bounds nearer to each other than this are not improved."""
LEAST: Final = 1e-9
"""Share of the call that is left to a tile at least."""
MAX_HYPOTHESES: Final = 32
"""Kept at a time; on the traces of the tests one is left after every gap."""

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Chain = tuple[int, "Chain | None"]
"""The armed gap, by its first look, and those before it."""


@dataclass(frozen=True, slots=True, eq=False)
class Optimum:
    """Between two bounds.

    Args:
        lower_us: No schedule costs less, microseconds.
        upper_us: What the best schedule found costs, microseconds.
        open: Shape `(intervals, tiles)`: its open tiles at each look.
        armed: Looks after which it arms, in order.
    """

    lower_us: float
    upper_us: float
    open: Flags
    armed: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Problem:
    """A trace in the terms of the sums above; microseconds.

    Args:
        counts: Pages written, shape `(written looks, tiles)`.
        written: Which looks those are.
        intervals: All looks.
        read_us: `n * page`.
        lazy_us: `n * fault`, the limit of `ahead`.
        fault_us: Weighted.
        page_us: Ours.
        look_us: A look.
        arming_us: Of the extent.
        waking_us: Of the extent.
    """

    counts: Counts
    written: NDArray[np.int64]
    intervals: int
    read_us: Floats
    lazy_us: Floats
    fault_us: float
    page_us: float
    look_us: float
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
            costs.look_us,
            costs.arming_us(trace.pages),
            costs.waking_us(trace.pages),
        )

    def gaps(self) -> Iterator[tuple[int, int, int]]:
        """A row's number, the first look of the gap before it (perhaps empty), and its look.

        The last is for the gap at the end: its row is no row, and its look no look.
        """
        first = 0
        for row, look in enumerate([*self.written.tolist(), self.intervals]):
            yield row, first, look
            first = look + 1

    def quiet(self, ahead: Floats, part: Floats) -> tuple[Floats, Floats, Flags]:
        """What a look that finds nothing adds to being logged, `ahead` after it, and who closes."""
        closing = ahead + (self.read_us + part)
        logged = np.minimum(0.0, closing)
        return logged, np.minimum(ahead + self.read_us - logged, self.lazy_us), closing < 0

    def busy(self, ahead: Floats, row: int, part: Floats) -> tuple[Floats, Floats, Flags, Flags]:
        """The same for a look that finds something, and who stays open where it is."""
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
    """Parts of the call: at each written look, and at each look of the gap before it."""

    busy: Floats
    quiet: Floats


class _Hypotheses:
    """The cheapest ways to have come this far: costs, and `ahead` of shape `(hypotheses, tiles)`."""

    def __init__(self, problem: _Problem) -> None:
        self._problem = problem
        self.cost_us = np.zeros(1)
        self.ahead = problem.lazy_us[None, :]
        self.chains: list[Chain | None] = [None]

    def best(self) -> tuple[float, Chain | None]:
        totals = self.cost_us + np.minimum(self.ahead, 0.0).sum(axis=1)
        at = int(np.argmin(totals))
        return float(totals[at]), self.chains[at]

    def quiet(self, looks: int, part: Floats) -> None:
        self.cost_us = self.cost_us + looks * self._problem.look_us
        for _ in range(looks):
            if (self.ahead == self._problem.lazy_us).all():
                break
            logged, self.ahead, _closed = self._problem.quiet(self.ahead, part)
            self.cost_us += logged.sum(axis=1)
        self._drop()

    def busy(self, row: int, part: Floats) -> None:
        logged, self.ahead, _closed, _stays = self._problem.busy(self.ahead, row, part)
        self.cost_us = self.cost_us + logged.sum(axis=1) + self._problem.look_us

    def add(self, cost_us: float, chain: Chain) -> None:
        """One in which everything is logged."""
        self.cost_us = np.append(self.cost_us, cost_us)
        self.ahead = np.vstack([self.ahead, self._problem.lazy_us])
        self.chains.append(chain)
        self._drop()

    def _drop(self) -> None:
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
            # The first is the cheapest.
            self.cost_us, self.chains = self.cost_us[:1], self.chains[:1]
            self.ahead = self.ahead.min(axis=0, keepdims=True)


def _value(problem: _Problem, split: _Split) -> tuple[float, tuple[int, ...]]:
    """The least cost with the call's price split this way, and the looks after which it arms."""
    hypotheses = _Hypotheses(problem)
    for row, first, look in problem.gaps():
        armed: tuple[float, Chain] | None = None
        if look > first:
            hypotheses.quiet(1, split.quiet[row])
            cost_us, chain = hypotheses.best()
            armed = cost_us + problem.arming_us, (first, chain)
            hypotheses.quiet(look - first - 1, split.quiet[row])
        if look < problem.intervals:
            hypotheses.busy(row, split.busy[row])
            if armed is not None:
                hypotheses.add(armed[0] + problem.waking_us, armed[1])
        elif armed is not None and armed[0] < hypotheses.best()[0]:
            return armed[0], _unchained(armed[1])
    cost_us, chain = hypotheses.best()
    return cost_us, _unchained(chain)


def _unchained(chain: Chain | None) -> tuple[int, ...]:
    looks: list[int] = []
    while chain is not None:
        look, chain = chain
        looks.append(look)
    return tuple(reversed(looks))


def _schedule(problem: _Problem, split: _Split, armed: tuple[int, ...]) -> Flags:
    """Each tile's cheapest, with those gaps armed: forward for the choices, and back along the best."""
    shape = problem.intervals, len(problem.read_us)
    closes, stays = np.zeros(shape, dtype=np.bool_), np.ones(shape, dtype=np.bool_)
    opened = np.zeros(shape, dtype=np.bool_)
    ahead, arms = problem.lazy_us, set(armed)
    begin = 0

    def back(last: int, state: Flags) -> None:
        for at in range(last, begin - 1, -1):
            opened[at] = state
            state = np.where(state, stays[at], closes[at])

    for row, first, look in problem.gaps():
        for at in range(first, first + 1 if first in arms else look):
            if (ahead == problem.lazy_us).all():
                break
            _, ahead, closes[at] = problem.quiet(ahead, split.quiet[row])
        if first in arms:
            back(first, ahead < 0)
            ahead, begin = problem.lazy_us, look + 1
        elif look < problem.intervals:
            _, ahead, closes[look], stays[look] = problem.busy(ahead, row, split.busy[row])
    back(problem.intervals - 1, ahead < 0)
    return opened


@dataclass(frozen=True, slots=True)
class _PlannedState(State):
    look: int = 0


class Planned:
    """A schedule as a policy, so that it is charged as any other; for the trace it was made for.

    Args:
        opened: Shape `(intervals, tiles)`: the open tiles at each look.
        armed: Looks after which it arms.
        written: Looks that find something, in order.
    """

    name: Final = "optimum"

    def __init__(self, opened: Flags, armed: tuple[int, ...], written: NDArray[np.int64]) -> None:
        self._opened, self._armed, self._written = opened, set(armed), written

    def _at(self, look: int) -> State:
        return _PlannedState(self._opened[min(look, len(self._opened) - 1)], look=look)

    def start(self, pages: Counts, costs: Costs) -> State:
        """See `Policy.start`."""
        return self._at(0)

    def step(self, state: State, dirty: Counts) -> State:
        """See `Policy.step`."""
        look = _look(state)
        if look in self._armed:
            return _PlannedState(state.unprotected, armed=True, look=look)
        return self._at(look + 1)

    def woken(self, state: State, slept_s: float | None = None) -> State:
        """See `Policy.woken`."""
        return self._at(int(self._written[np.searchsorted(self._written, _look(state))]) + 1)


def _look(state: State) -> int:
    if not isinstance(state, _PlannedState):
        raise TypeError(f"{type(state).__name__} is another policy's state")
    return state.look


def optimum(trace: Trace, costs: Costs, tile_pages: int, rounds: int = ROUNDS) -> Optimum:
    """Bound what the cheapest schedule costs.

    Args:
        trace: What was written when; at least one interval.
        costs: What is charged.
        tile_pages: Pages a tile.
        rounds: Splits of the call tried after the first; none changes that both bounds hold.

    Raises:
        VramtapError: the trace has no look, or is too long for tiles so small.
    """
    if not trace.intervals:
        raise VramtapError("optimum", "trace", "has no look", "record a longer one")
    problem = _Problem.of(trace, costs, tile_pages)
    hit = problem.counts > 0
    busy: Floats = hit.astype(np.float64) + UNHIT
    # What is closed in a gap is mostly what was hit last; before the first write nothing is open.
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
            best = Optimum(max(lower_us, best.lower_us), best.upper_us, best.open, best.armed)
        if best.upper_us <= best.lower_us * CLOSE:
            break
        step = FIRST_STEP / np.sqrt(number)
        paid_busy, paid_quiet = _paid(problem, hit, opened)
        busy, quiet = busy * np.exp(step * paid_busy), quiet * np.exp(step * paid_quiet)
    assert best is not None
    return best


def _parts(weight: Floats) -> Floats:
    """Shares of the call, each row adding up to one; none so small that it could not grow again."""
    parts: Floats = np.maximum(weight / weight.sum(axis=1, keepdims=True), LEAST)
    parts /= parts.sum(axis=1, keepdims=True)
    return parts


def _paid(problem: _Problem, hit: Flags, opened: Flags) -> tuple[Flags, Flags]:
    """Who made use of the call: at each written look, and at any look of the gap before it."""
    before = np.vstack([np.zeros((1, opened.shape[1]), dtype=np.bool_), opened[:-1]])
    closing = before & ~opened
    busy = closing[problem.written] | (hit & ~opened[problem.written])
    quiet = np.zeros((len(problem.written) + 1, opened.shape[1]), dtype=np.bool_)
    looks = np.setdiff1d(np.flatnonzero(closing.any(axis=1)), problem.written, assume_unique=True)
    np.logical_or.at(quiet, np.searchsorted(problem.written, looks), closing[looks])
    return busy, quiet
