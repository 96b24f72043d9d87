"""`ModeCache`: the mode of a domain, read again only after its device model may have changed it.

Facts. Only QEMU changes the registers of its VGA, and only while it runs on a CPU; /proc says whether it has
run (`SchedstatProbe`). To read the registers is a QMP command, and QEMU runs to answer it, for as long as
several frames take, until the session has ended and QEMU has seen that.

Consequence. If vramtap read the registers whenever QEMU has run, each read would cause the next one.

Decision. After a read vramtap ignores for a moment that QEMU runs, then remembers its run time. The mode
holds until the run time differs. A register may have been written while the answer was on its way, so after
a longer time the mode counts as stale in any case.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from vramtap.display.mode import Mode
    from vramtap.linux.schedstat import SchedstatProbe


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeTimings:
    """When a `ModeCache` reads the mode again, seconds.

    Args:
        settle_s: How long the device model may run after a read before its running counts.
        stale_after_s: Age at which a mode counts as stale although the device model has not run.
        flipping_s: How long after a change every call reads the mode, because changes come in series.
        bars_s: Time between two reads of the BARs while the registers can be read. That answer is long.
    """

    settle_s: float = 0.3
    stale_after_s: float = 10.0
    flipping_s: float = 1.0
    bars_s: float = 10.0


DEFAULT_MODE_TIMINGS: Final = ModeTimings()


class ModeCache:
    """The mode of one domain.

    Args:
        read: Reads the mode from the device model. Its argument says whether to read the BARs first.
        probe: Says whether the device model has run; None to read the mode at every call.
        on_stale: Called when the mode counts as stale because of its age.
        timings: When to read again.
    """

    def __init__(
        self,
        read: Callable[[bool], Awaitable[Mode | None]],
        probe: SchedstatProbe | None,
        on_stale: Callable[[], None],
        *,
        timings: ModeTimings = DEFAULT_MODE_TIMINGS,
    ) -> None:
        self._read = read
        self._probe = probe
        self._on_stale = on_stale
        self._timings = timings
        self._mode: Mode | None = None
        self._run_time: bytes | None = None
        """The device model's run time after it dealt with the last read; None while it may be doing so."""
        self._flipping_until_s = self._bars_due_s = float("-inf")
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    async def mode(self) -> Mode | None:
        """Return the mode, from the device model if it may have changed.

        Raises:
            VramtapError: as `read`.
        """
        now_s = asyncio.get_running_loop().time()
        if self._mode is not None and self._holds(now_s):
            return self._mode
        bars = self._mode is None or now_s >= self._bars_due_s
        mode = await self._read(bars)
        if bars:
            self._bars_due_s = now_s + self._timings.bars_s
        if mode is not None and self._mode not in (None, mode):
            self._flipping_until_s = now_s + self._timings.flipping_s
        self._mode, self._run_time = mode, None
        self._cancel_timer()
        if mode is not None:
            self._call_later(self._timings.settle_s, self._settle)
        return mode

    def _holds(self, now_s: float) -> bool:
        """Return whether the last mode is still valid."""
        if self._run_time is None:
            return self._timer is not None and now_s >= self._flipping_until_s
        return self._probe is not None and self._probe.read() == self._run_time

    def _settle(self) -> None:
        """The device model has dealt with the read: if it runs from now on, the guest is the cause."""
        self._timer = None
        self._run_time = self._probe.read() if self._probe is not None else None
        if self._run_time is not None:
            self._call_later(self._timings.stale_after_s, self._expire)

    def _expire(self) -> None:
        self._timer, self._run_time = None, None
        self._on_stale()

    def _call_later(self, delay_s: float, call: Callable[[], None]) -> None:
        if not self._closed:
            self._timer = asyncio.get_running_loop().call_later(delay_s, call)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self) -> None:
        """Set no more timers. Harmless when called twice."""
        self._closed = True
        self._cancel_timer()
