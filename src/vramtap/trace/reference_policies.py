"""Policies of others, to be compared with: what Xen's shadow code and QEMU's VNC server do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from vramtap.policy.decide import INTERVAL_S, Counts, State

if TYPE_CHECKING:
    from vramtap.policy.costs import Costs

XEN_QUIET_S: Final = 2.0
"""Without a write for so long, Xen takes all write permission (`last_dirty + SECONDS(2)` in
shadow_track_dirty_vram, xen/arch/x86/mm/shadow)."""
QEMU_BASE_S: Final = 0.030
"""GUI_REFRESH_INTERVAL_DEFAULT (include/ui/console.h, QEMU)."""
QEMU_MORE_S: Final = 0.050
"""VNC_REFRESH_INTERVAL_INC (ui/vnc.c, QEMU): longer by this after each refresh that found nothing."""
QEMU_MOST_S: Final = 3.000
"""GUI_REFRESH_INTERVAL_IDLE (include/ui/console.h, QEMU)."""


@dataclass(frozen=True, slots=True)
class _QuietState(State):
    quiet_s: float = 0.0


class XenTwoSeconds:
    """Every tile logged; after two seconds without a write all is armed.

    Args:
        interval_s: Between two looks, seconds.
    """

    name: Final = "xen"

    def __init__(self, interval_s: float = INTERVAL_S) -> None:
        self._interval_s = interval_s

    def start(self, pages: Counts, costs: Costs) -> State:
        """See `Policy.start`."""
        return _QuietState(np.zeros(len(pages), dtype=np.bool_))

    def step(self, state: State, dirty: Counts) -> State:
        """See `Policy.step`."""
        if not isinstance(state, _QuietState):
            raise TypeError(f"{type(state).__name__} is another policy's state")
        if dirty.any():
            return _QuietState(state.unprotected)
        quiet_s = (0.0 if state.armed else state.quiet_s) + self._interval_s
        return _QuietState(state.unprotected, armed=quiet_s >= XEN_QUIET_S, quiet_s=quiet_s)

    def woken(self, state: State, slept_s: float | None = None) -> State:
        """See `Policy.woken`."""
        return _QuietState(state.unprotected)


class QemuBackOff:
    """Every tile logged, looked at ever less often while nothing is written; never armed.

    A look that finds something halves the time to the next one. Only the viewer's keyboard and mouse bring it
    down at once, and a trace has neither: this is QEMU with somebody who only watches.
    """

    name: Final = "qemu"

    def start(self, pages: Counts, costs: Costs) -> State:
        """See `Policy.start`."""
        return State(np.zeros(len(pages), dtype=np.bool_), rest_s=QEMU_BASE_S)

    def step(self, state: State, dirty: Counts) -> State:
        """See `Policy.step`."""
        if dirty.any():
            return State(state.unprotected, rest_s=max(state.rest_s / 2, QEMU_BASE_S))
        return State(state.unprotected, rest_s=min(state.rest_s + QEMU_MORE_S, QEMU_MOST_S))

    def woken(self, state: State, slept_s: float | None = None) -> State:
        """See `Policy.woken`."""
        return State(state.unprotected, rest_s=QEMU_BASE_S)
