"""Policy: decides which tiles are logged, which are left unprotected, and when to arm. Pure functions."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from vramtap.policy.arming_rule import Arming, ArmingRule
from vramtap.policy.tile_rule import TileMask, TileRule, TileStates

if TYPE_CHECKING:
    from vramtap.policy.costs import Costs

Counts = NDArray[np.int64]
"""A number of pages for each tile, shape `(tiles,)`."""

INTERVAL_S: Final = 1 / 60
"""Default time between two scans of a tap."""


@dataclass(frozen=True, slots=True)
class State:
    """Decision of a policy for the next scan.

    Args:
        unprotected: Tiles that are not protected and are compared at every scan; the others are logged. The
            array is never changed: the same object means the same decision. A tile that becomes logged is
            protected again and read as a whole at the next scan.
        armed: Whether to arm now: everything is protected, and there are no scans until the first write.
        rest_s: Least time until the next scan, seconds; 0.0 means the tap's own interval.
    """

    unprotected: TileMask
    armed: bool = False
    rest_s: float = 0.0


class Policy(Protocol):
    """Decides after every scan. Pure: no method changes the policy or its arguments."""

    @property
    def name(self) -> str:
        """Name on the command line."""
        ...

    def start(self, pages: Counts, costs: Costs) -> State:
        """Return the first decision, when everything is protected and was read once.

        Args:
            pages: Pages of each tile, each at least 1.
            costs: Measured on this target.
        """
        ...

    def step(self, state: State, dirty: Counts) -> State:
        """Return the decision after a scan.

        Args:
            state: The policy's last decision. If `armed`, the extent could not be armed.
            dirty: Pages of each tile that were written (logged tiles), or changed (unprotected tiles, and
            tiles
                that this scan protects again).
        """
        ...

    def woken(self, state: State, slept_s: float | None = None) -> State:
        """Return the decision after the first write to an armed extent: all tiles logged, not armed.

        Args:
            state: The policy's last decision.
            slept_s: How long the extent was armed, seconds; None if not known.
        """
        ...


def _all_logged(tiles: int) -> TileMask:
    return np.zeros(tiles, dtype=np.bool_)


class LogAlways:
    """Logs every tile and never arms."""

    name: Final = "log"

    def start(self, pages: Counts, costs: Costs) -> State:
        """See `Policy.start`."""
        return State(_all_logged(len(pages)))

    def step(self, state: State, dirty: Counts) -> State:
        """See `Policy.step`."""
        return state

    def woken(self, state: State, slept_s: float | None = None) -> State:
        """See `Policy.woken`."""
        return dataclasses.replace(state, armed=False)


class CompareAlways:
    """Leaves every tile unprotected and never arms."""

    name: Final = "compare"

    def start(self, pages: Counts, costs: Costs) -> State:
        """See `Policy.start`."""
        return State(np.ones(len(pages), dtype=np.bool_))

    def step(self, state: State, dirty: Counts) -> State:
        """See `Policy.step`."""
        return state

    def woken(self, state: State, slept_s: float | None = None) -> State:
        """See `Policy.woken`."""
        return dataclasses.replace(state, armed=False)


class ArmAlways:
    """Logs every tile and arms after every scan that finds nothing, for trials."""

    name: Final = "arm"

    def start(self, pages: Counts, costs: Costs) -> State:
        """See `Policy.start`."""
        return State(_all_logged(len(pages)))

    def step(self, state: State, dirty: Counts) -> State:
        """See `Policy.step`."""
        return State(state.unprotected, armed=not dirty.any())

    def woken(self, state: State, slept_s: float | None = None) -> State:
        """See `Policy.woken`."""
        return dataclasses.replace(state, armed=False)


@dataclass(frozen=True, slots=True)
class Parameters:
    """Parameters of `OnlinePolicy`. None is a time or a number of scans: the target's costs determine those.

    With the defaults, the eight workloads and the three real traces of the tests cost at most 1.1 times their
    optimum, both with costs measured on real targets and with `REFERENCE`. Nearby values change the costs by
    one or two per cent; the closest to the limit is a console that boots. Smaller tiles cost less in total,
    but more relative to their own optimum. `vramtap tune` finds values for other guests.

    Args:
        tile_pages: Pages of a tile, for the code that divides the extent into tiles.
        patience: A logged tile becomes unprotected when that would have saved this many times the costs of
            both changes. 1.0 is the work-function rule. The initial value for each tile; it adapts.
        patience_closing: The same for an unprotected tile that becomes logged.
        most_patience: Upper limit of the adapted values.
        margin: How much more the adapted decisions may cost than the proved rule, as a share of its cost.
        trust: How much more they may cost at once: in pairs of changes for a tile, in armings for the extent.
        arm_after: The proved rule arms after scans without result have cost this many armings.
        arm_soonest: Earliest adapted threshold, as a share of that.
        forget: Weight of earlier gaps, applied each time another gap ends.
        arms: Whether the policy arms at all.

    Raises:
        ValueError: a value is out of range.
    """

    tile_pages: int = 40
    patience: float = 0.85
    patience_closing: float = 0.1
    most_patience: float = 8.0
    margin: float = 0.1
    trust: float = 4.0
    arm_after: float = 1.0
    arm_soonest: float = 1 / 32
    forget: float = 0.98
    arms: bool = True

    def __post_init__(self) -> None:
        for name, (least, most) in _RANGES.items():
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name} is {getattr(self, name)!r}, not from {least} to {most}")


_RANGES: Final = {
    "tile_pages": (1, 1 << 20),
    "patience": (1e-3, 1e3),
    "patience_closing": (1e-3, 1e3),
    "most_patience": (1e-3, 1e3),
    "margin": (1e-6, 1e3),
    "trust": (0.0, 1e6),
    "arm_after": (1e-6, 1e6),
    "arm_soonest": (1e-6, 1.0),
    "forget": (0.0, 1.0),
}
"""Wide enough for any search, narrow enough that no sum overflows."""


@dataclass(frozen=True, slots=True)
class _OnlineState(State):
    tiles: TileStates = field(kw_only=True)
    arming: Arming = field(kw_only=True)


class OnlinePolicy:
    """vramtap's policy: a two-state task system for each tile, and ski rental for arming.

    `tile_rule` and `arming_rule` say what is proved and what is not. A scan that finds nothing in a settled
    extent evaluates no tile.

    Args:
        parameters: Tuned on traces.
        interval_s: Time between two scans, seconds; converts the time armed into scans.
    """

    name: Final = "hybrid"

    def __init__(self, parameters: Parameters | None = None, interval_s: float = INTERVAL_S) -> None:
        self.parameters: Parameters = parameters or Parameters()
        self._interval_s = interval_s

    def start(self, pages: Counts, costs: Costs) -> State:
        """See `Policy.start`."""
        p, total = self.parameters, int(pages.sum())
        tiles = TileStates.begin(
            TileRule.of(pages, costs, (p.patience, p.patience_closing), p.most_patience, p.margin, p.trust)
        )
        whole = (costs.arming_us(total) + costs.waking_us(total)) / costs.scan_us
        rule = ArmingRule.of(whole, p.arm_after, p.arm_soonest, p.forget, p.trust)
        return _OnlineState(tiles.unprotected, tiles=tiles, arming=Arming.begin(rule))

    def step(self, state: State, dirty: Counts) -> State:
        """See `Policy.step`."""
        own = _own(state)
        tiles, arming = own.tiles, own.arming
        if state.armed:
            arming = arming.refused()
        written = _written(dirty)
        if written:
            arming = arming.gap_ended()
        elif self.parameters.arms:
            arming = arming.quiet()
            if arming.is_due:
                return _OnlineState(tiles.unprotected, armed=True, tiles=tiles, arming=arming)
        if written or not tiles.settled:
            tiles = tiles.scanned(written)
        if tiles is own.tiles and arming is own.arming:
            return state
        return _OnlineState(tiles.unprotected, tiles=tiles, arming=arming)

    def woken(self, state: State, slept_s: float | None = None) -> State:
        """See `Policy.woken`."""
        own = _own(state)
        tiles = own.tiles.all_logged()
        arming = own.arming.woken(None if slept_s is None else slept_s / self._interval_s)
        return _OnlineState(tiles.unprotected, tiles=tiles, arming=arming)


def _own(state: State) -> _OnlineState:
    if not isinstance(state, _OnlineState):
        raise TypeError(f"{type(state).__name__} is another policy's state")
    return state


def _written(dirty: Counts) -> dict[int, int]:
    """Return the number of dirty pages of each tile that has any."""
    # No numpy reductions: at 60 scans a second, `any` alone costs more than all of this.
    return {tile: dirty.item(tile) for tile in dirty.nonzero()[0].tolist()}
