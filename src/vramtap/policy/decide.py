"""Policy: which tiles to log, which to leave open, when to arm; functions of what was seen and measured."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from vramtap.policy.arming_rule import Arming, ArmingRule
from vramtap.policy.tile_rule import TileRule, TileStates

if TYPE_CHECKING:
    from vramtap.policy.costs import Costs

Tiles = NDArray[np.bool_]
Counts = NDArray[np.int64]

INTERVAL_S: Final = 1 / 60
"""Between two looks of a tap, unless it is told another."""


@dataclass(frozen=True, slots=True)
class State:
    """What a policy has decided, for the next look.

    Args:
        open: Shape `(tiles,)`: not protected, and compared at every look; the others are logged. Not written
            to once handed out: the same object is the same decision. A tile that was open and is not any more
            is protected again and read as a whole at the next look.
        armed: Arm now: everything is protected and nobody looks until the first write.
        rest_s: At least so long until the next look, seconds; 0.0 is the tap's own interval.
    """

    open: Tiles
    armed: bool = False
    rest_s: float = 0.0


class Policy(Protocol):
    """Decides after every look. Pure: no method changes the policy or the state it is given."""

    @property
    def name(self) -> str:
        """What the command line calls it."""
        ...

    def start(self, pages: Counts, costs: Costs) -> State:
        """The first decision, when everything is protected and was read once.

        Args:
            pages: Of each tile, shape `(tiles,)`, each at least 1.
            costs: Measured on this target.
        """
        ...

    def step(self, state: State, dirty: Counts) -> State:
        """The decision after a look.

        Args:
            state: The last one this policy gave. If it says armed, the arming was not carried out.
            dirty: Pages found written (logged tile) or changed (open tile, and one that is protected again at
                this look), shape `(tiles,)`.
        """
        ...

    def woken(self, state: State, slept_s: float | None = None) -> State:
        """The decision after the first write to an armed extent: all tiles logged, not armed.

        Args:
            state: The last one this policy gave.
            slept_s: For how long the extent was armed, seconds; None if nobody knows.
        """
        ...


def _closed(tiles: int) -> Tiles:
    return np.zeros(tiles, dtype=np.bool_)


class LogAlways:
    """Every tile logged, never armed."""

    name: Final = "log"

    def start(self, pages: Counts, costs: Costs) -> State:
        """See `Policy.start`."""
        return State(_closed(len(pages)))

    def step(self, state: State, dirty: Counts) -> State:
        """See `Policy.step`."""
        return state

    def woken(self, state: State, slept_s: float | None = None) -> State:
        """See `Policy.woken`."""
        return dataclasses.replace(state, armed=False)


class CompareAlways:
    """Every tile open, never armed."""

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


@dataclass(frozen=True, slots=True)
class Parameters:
    """Of `OnlinePolicy`; none is a time or a count of looks: those follow from the target's costs.

    The defaults cost the eight workloads and the three real traces of the tests at most 1.1 times their
    optimum, with the costs measured on the real targets and with `REFERENCE`; around them costs change by a
    hundredth or two, and the closest is a console that boots. Smaller tiles cost less by themselves and more
    against their own optimum. `vramtap tune` finds others for other guests.

    Args:
        tile_pages: Pages of a tile; for whoever cuts the extent into tiles.
        patience: A tile is opened when that would have saved so many times what opening and closing cost; 1.0
            is the work-function rule. Where a tile begins; it learns.
        patience_closing: The same for closing.
        most_patience: The most that it learns.
        margin: What learning may cost more than the rule that is proved, as a share of that.
        trust: What it may cost more besides, at once: in openings and closings for a tile, in armings for the
            extent.
        arm_after: The rule that is proved arms when so many armings have been spent on looking in vain.
        arm_soonest: The earliest that is learned, as a share of that.
        forget: What the gaps before still count, each time another one is over.
        arms: Whether it arms at all.

    Raises:
        ValueError: one is out of its range.
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
    """Ours: a two-state task system for each tile (`twostate`), ski rental for the arming (`arming`).

    What is proved of either, and what is not, stands there. A look that finds nothing in a settled extent
    looks at no tile.

    Args:
        parameters: Tuned on traces.
        interval_s: Between two looks, seconds: what a time asleep is measured with.
    """

    name: Final = "hybrid"

    def __init__(self, parameters: Parameters | None = None, interval_s: float = INTERVAL_S) -> None:
        self.parameters = parameters or Parameters()
        self._interval_s = interval_s

    def start(self, pages: Counts, costs: Costs) -> State:
        """See `Policy.start`."""
        p, total = self.parameters, int(pages.sum())
        tiles = TileStates.begin(
            TileRule.of(pages, costs, (p.patience, p.patience_closing), p.most_patience, p.margin, p.trust)
        )
        whole = (costs.arming_us(total) + costs.waking_us(total)) / costs.look_us
        rule = ArmingRule.of(whole, p.arm_after, p.arm_soonest, p.forget, p.trust)
        return _OnlineState(tiles.open, tiles=tiles, arming=Arming.begin(rule))

    def step(self, state: State, dirty: Counts) -> State:
        """See `Policy.step`."""
        own = _own(state)
        tiles, arming = own.tiles, own.arming
        if state.armed:
            arming = arming.refused()
        written = _written(dirty)
        if written:
            arming = arming.ended()
        elif self.parameters.arms:
            arming = arming.quiet()
            if arming.is_due:
                return _OnlineState(tiles.open, True, tiles=tiles, arming=arming)
        if written or not tiles.settled:
            tiles = tiles.look(written)
        if tiles is own.tiles and arming is own.arming:
            return state
        return _OnlineState(tiles.open, tiles=tiles, arming=arming)

    def woken(self, state: State, slept_s: float | None = None) -> State:
        """See `Policy.woken`."""
        own = _own(state)
        tiles = own.tiles.logged_again()
        arming = own.arming.woken(None if slept_s is None else slept_s / self._interval_s)
        return _OnlineState(tiles.open, tiles=tiles, arming=arming)


def _own(state: State) -> _OnlineState:
    if not isinstance(state, _OnlineState):
        raise TypeError(f"{type(state).__name__} is another policy's state")
    return state


def _written(dirty: Counts) -> dict[int, int]:
    """How many pages were, for each tile where any were."""
    # Methods that are no reductions: `any` alone costs more, at 60 looks a second, than all of this.
    written: dict[int, int] = {}
    for tile in dirty.nonzero()[0].tolist():
        written[tile] = dirty.item(tile)
    return written
