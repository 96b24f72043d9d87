"""Reference policies for replay: how Xen's shadow code and QEMU's VNC server track writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from vramtap.policy.decide import INTERVAL_S, Counts, State

if TYPE_CHECKING:
    from vramtap.policy.costs import Costs

XEN_QUIET_S: Final = 2.0
"""Time without a write after which Xen removes all write permissions, seconds (`last_dirty + SECONDS(2)` in
shadow_track_dirty_vram, xen/arch/x86/mm/shadow)."""
QEMU_BASE_S: Final = 0.030
"""Shortest refresh interval of QEMU, seconds (GUI_REFRESH_INTERVAL_DEFAULT in include/ui/console.h)."""
QEMU_MORE_S: Final = 0.050
"""Increase of QEMU's refresh interval after a refresh without a change, seconds (VNC_REFRESH_INTERVAL_INC in
ui/vnc.c)."""
QEMU_MOST_S: Final = 3.000
"""Longest refresh interval of QEMU, seconds (GUI_REFRESH_INTERVAL_IDLE in include/ui/console.h)."""


@dataclass(frozen=True, slots=True)
class _QuietState(State):
    quiet_s: float = 0.0


class XenTwoSeconds:
    """Xen's policy: log every tile, and arm after two seconds without a write.

    Args:
        interval_s: Poll interval, seconds.
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
    """QEMU's policy: log every tile, scan less and less often while nothing is written, and never arm.

    A scan that finds a write halves the poll interval. In QEMU the viewer's keyboard and mouse also reset it.
    A trace has neither, so this policy is QEMU with a viewer who only watches.
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
