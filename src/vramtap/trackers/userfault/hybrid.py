"""Tracker `hybrid`: logs tiles that change rarely, compares busy ones, and arms the extent while it is idle.

How the three go together, and why the steps have this order:

Facts. With the log, the writer pays a fault for its first write to a page after each scan, and vramtap pays a
call that protects the page again. An unprotected page costs the writer nothing, and vramtap the read of a
page that may not have changed. Both need sixty scans a second of a screen on which nothing happens.
Synchronous protection needs none until the first write; the writer is then suspended until it is answered.
A range belongs to one userfaultfd at a time, so while it moves from the log's to the other one, it is not
protected for a moment.

Consequences. A tile of pages is left unprotected if it is written almost always. An unprotected page has no
log, so every scan reports it. The caller compares it with its copy, which is as exact as the log. Neither way
needs a call: to leave a tile unprotected, its pages are not protected again after a scan. To log it again,
the next scan finds its unprotected pages as written, reports them once more and protects them before the
caller reads them. The whole extent is armed once scans without result have cost as much as arming and waking
up cost. Writes in the moment between the two descriptors are in no log. One read of everything finds them,
after the new protection is in place, so both changes answer AllDirty.

Decision. `collect` does all of it. To arm, it unregisters the range from the log, registers and protects it
with the other descriptor, and answers AllDirty. From then on `collect` answers nothing as long as there is no
fault in the descriptor and the watchdog has reported none: a suspended write has not happened yet. After a
fault, it lets the watchdog finish, lifts what the watchdog has missed and wakes the writers, unregisters the
range and protects it with the log. It first answers the pages around the write, which a viewer waits for, and
AllDirty in the next call. `policy` decides which tiles are protected and when to arm.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import time
from typing import TYPE_CHECKING, Final

import numpy as np

from vramtap.errors import KernelError, TargetGone, VramtapError
from vramtap.linux.inject import fetch_guarded
from vramtap.linux.watchdog import LATE_S, Watchdog
from vramtap.pages import NO_PAGES, PAGE_SIZE, PageRuns
from vramtap.policy.decide import OnlinePolicy, Parameters, Policy, State
from vramtap.policy.tiles import Tiles
from vramtap.trackers.base import AllDirty, Reason, Waker, not_started
from vramtap.trackers.poller import IDLE_INTERVAL_S
from vramtap.trackers.userfault.calibrate import measure_costs
from vramtap.trackers.userfault.log import LogTracker

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from vramtap.memory.extent import Extent
    from vramtap.policy.costs import Costs

RELEASE_TIMEOUT_S: Final = LATE_S
"""How long the tracker waits for the watchdog to release the writer."""
GIVE_WAY_S: Final = 0.0001
"""Time for the released writer to continue: it takes 20 us if a processor is free."""
BEFORE_PAGES: Final = 8
AFTER_PAGES: Final = 56
"""Pages around the write that woke the tracker, reported before all others: programs mostly draw upwards in
memory. To read and compare 64 pages takes 0.2 ms, a whole screen 2 to 4 ms, and a viewer waits for the
first."""
PAGE_TILE: Final = Parameters().tile_pages
"""Pages of a tile; the policy was tuned with this size."""

log: logging.Logger = logging.getLogger(__name__)


class HybridTracker:
    """Logs, compares or arms, tile by tile, from costs measured on the target.

    It needs and sees what `LogTracker` does. Arming needs more: memory of another process, anonymous or of a
    file in memory, and a full userfaultfd there (CAP_SYS_PTRACE in the target, or
    vm.unprivileged_userfaultfd=1). Otherwise `unarmable` says why, and the tracker polls while idle.

    Args:
        allow_filtered: Also inject into a target that has a seccomp filter; see `linux.inject`.
        policy: Decides; the online policy by default.
        tile_pages: Pages of a tile.
        costs: Costs of this target; measured by `start` if None.
        guest_cost_factor: Weight of guest CPU time relative to vramtap's.
        latency_s: Interval between polls while idle if the extent cannot be armed, seconds.

    Attributes:
        armed: Whether the first write wakes the tracker, so that no scans are needed.
        unarmable: Why the extent can never be armed; empty if it can.
    """

    name: Final = "hybrid"
    prefers_window: Final = False

    def __init__(
        self,
        *,
        allow_filtered: bool = False,
        policy: Policy | None = None,
        tile_pages: int = PAGE_TILE,
        costs: Costs | None = None,
        guest_cost_factor: float = 1.0,
        latency_s: float = IDLE_INTERVAL_S,
    ) -> None:
        self._log = LogTracker(allow_filtered=allow_filtered, latency_s=latency_s)
        self._policy: Policy = OnlinePolicy() if policy is None else policy
        self._tile_pages = tile_pages
        self._given_costs = self._costs = costs
        self._guest_cost_factor = guest_cost_factor
        self._watchdog: Watchdog | None = None
        self._state: State
        self._tiles: Tiles
        self._unprotected = NO_PAGES
        self._reprotected: NDArray[np.bool_]
        self._any_reprotected = False
        self._awaiting_feedback: PageRuns | None = None
        self._watchdog_late = self._has_more = False
        self._armed_at_s = 0.0
        self.armed: bool = False
        self.unarmable: str = ""

    @property
    def stopped_us(self) -> float:
        """How long attaching stopped a thread of the target, microseconds."""
        return self._log.stopped_us

    @property
    def costs(self) -> Costs:
        """Costs that the policy decides by.

        Raises:
            VramtapError: not started yet.
        """
        if self._costs is None:
            raise not_started(self.name)
        return self._costs

    @property
    def unprotected(self) -> PageRuns:
        """Pages that are not protected and that every scan reports."""
        return self._unprotected

    @property
    def watchdog_pid(self) -> int | None:
        """Process that answers the first write; None if there is none."""
        return self._watchdog.pid if self._watchdog is not None else None

    def start(self, extent: Extent) -> None:
        """Protect the extent with the log, find out whether it can be armed, and measure the costs.

        Raises:
            VramtapError: as `LogTracker.start`.
        """
        self.stop()
        try:
            if extent.space.pid == os.getpid():
                self._log.start(extent)
                self.unarmable = (
                    "it is memory of this process: a suspended writer could hold the interpreter's lock"
                )
            else:
                fetch = functools.partial(fetch_guarded, start=extent.address, end=extent.end)
                fetched = self._log.start_fetched(extent, fetch)
                assert fetched is not None
                self._watchdog, self.unarmable = fetched.watchdog, fetched.refusal
            self._measure(extent)
        except BaseException:
            self.stop()
            raise
        if self.unarmable:
            log.info("%s: never armed: %s", extent, self.unarmable)
        self._tiles = Tiles(extent.pages, self._tile_pages)
        self._state = self._policy.start(self._tiles.sizes, self.costs)
        self._reprotected = np.zeros(len(self._tiles), dtype=np.bool_)
        self._any_reprotected = False
        self._unprotected = self._tiles.runs(self._state.unprotected)

    def _measure(self, extent: Extent) -> None:
        try:
            measured = measure_costs(extent, self._log, self._watchdog, self._guest_cost_factor)
        except VramtapError as error:
            if self._watchdog is None:
                raise
            # The log can protect this memory, but synchronous protection cannot: a file on a disk, for
            # example.
            self._close_watchdog(str(error))
            measured = measure_costs(extent, self._log, None, self._guest_cost_factor)
        self._costs = self._given_costs or measured

    def _close_watchdog(self, why: str) -> None:
        self.unarmable, self._watchdog_late = why, False
        watchdog, self._watchdog = self._watchdog, None
        if watchdog is not None:
            watchdog.close()

    @property
    def read_from(self) -> Extent:
        """The tracked extent itself."""
        return self._log.read_from

    def collect(self, window: tuple[int, int] | None = None) -> PageRuns | AllDirty:
        """Scan the log of the window, or change the protection; see `Tracker.collect` and the text above."""
        extent = self.read_from
        if self.armed:
            assert self._watchdog is not None
            # A target that has ended causes no fault; `is_mapped` raises then.
            if not self._watchdog.fired and self._log.is_mapped:
                return self._log.take_pending(window)
            near = self._disarm(extent, self._watchdog).clip(*(window or (0, extent.pages)))
            if near:
                self._has_more = True
                return near
        elif self._watchdog_late and self._watchdog is not None:
            # A watchdog that was stopped leaves events unread that only it is woken for. They suspend other
            # threads too: those that move or unmap memory.
            self._watchdog.acknowledge()
            self._watchdog_late = not self._watchdog.answered
        self._has_more = False
        if self._awaiting_feedback is not None:
            # The caller gave no feedback: all of these pages may have changed.
            self.feedback(self._unprotected)
        answer = self._log.collect(window, exclude=self._unprotected)
        if isinstance(answer, AllDirty):
            return answer
        if self._unprotected:
            self._awaiting_feedback = answer
            return answer.union(self._unprotected.clip(*(window or (0, extent.pages))))
        self._decide(answer)
        if self._state.armed and not answer and self._arm(extent):
            return self._log.take_pending(window)
        return answer

    def _decide(self, dirty: PageRuns) -> None:
        """Ask the policy, with the pages found written or changed."""
        counts = self._tiles.count(dirty)
        # All pages of these tiles are reported because they were unprotected until now, not because they were
        # written.
        if self._any_reprotected:
            counts[self._reprotected] = 0
        self._apply(self._policy.step(self._state, counts))

    def _apply(self, state: State) -> None:
        if state.unprotected is self._state.unprotected:
            if self._any_reprotected:
                self._reprotected = np.zeros_like(self._reprotected)
                self._any_reprotected = False
        else:
            self._reprotected = self._state.unprotected & ~state.unprotected
            self._any_reprotected = bool(self._reprotected.any())
            self._unprotected = self._tiles.runs(state.unprotected)
        self._state = state

    def _arm(self, extent: Extent) -> bool:
        """Protect the extent synchronously.

        Returns:
            False if that is not possible now and nothing was changed; else the log has a pending answer.
        """
        watchdog = self._watchdog
        if watchdog is None or self._watchdog_late or self._log.has_pending or not self._log.is_mapped:
            return False
        if not watchdog.ready():
            if not watchdog.alive:
                self._on_watchdog_exit(extent, watchdog)
            return False
        self._log.suspend(AllDirty(Reason.ARMED))
        registered = False
        try:
            watchdog.guard.register(extent.address, extent.end)
            registered = True
            # Memory that is mapped into a hole is not registered, so its writes would cause no fault. This
            # check sees a hole that is there now. If a hole was filled since `register`, `protect` fails. A
            # hole that is made from here on causes an event.
            if not self._log.is_mapped:
                raise VramtapError("arm", str(extent), "it has a hole")
            watchdog.guard.protect(extent.address, extent.end)
        except BaseException as error:
            if registered:  # otherwise the range may be registered with another program's userfaultfd
                self._release(extent, watchdog)
            self._log.resume(AllDirty(Reason.REMAPPED, f"not armed: {error}"))
            if not isinstance(error, VramtapError) or isinstance(error, TargetGone):
                raise
            log.info("%s: not armed: %s", extent, error)
            return True
        self.armed, self._armed_at_s = True, time.monotonic()
        return True

    def _disarm(self, extent: Extent, watchdog: Watchdog) -> PageRuns:
        """Change from synchronous protection to the log.

        Returns:
            Pages to report first: around the write that was suspended.
        """
        near = NO_PAGES
        if watchdog.wait_released(RELEASE_TIMEOUT_S):
            # The scheduler may have put the writer behind this thread on the same processor, where it waits
            # for up to a tick of 4 ms (measured). No event tells when it runs.
            time.sleep(GIVE_WAY_S)
            page = (watchdog.where - extent.address) // PAGE_SIZE
            if 0 <= page < extent.pages:
                near = PageRuns([(max(0, page - BEFORE_PAGES), min(extent.pages, page + AFTER_PAGES))])
        else:
            if watchdog.alive:
                log.warning("%s: the watchdog (pid %d) did not answer a write in time", extent, watchdog.pid)
            watchdog.ping()
            self._watchdog_late = True
        self._release(extent, watchdog)
        self.armed = False
        if self._watchdog is not None:
            watchdog.acknowledge()
        if self._log.resume(AllDirty(Reason.WOKEN)).reason is not Reason.WOKEN:
            near = NO_PAGES  # the memory there may be gone
        if self._watchdog is not None and not watchdog.alive:
            self._on_watchdog_exit(extent, watchdog)
        self._apply(self._policy.woken(self._state, time.monotonic() - self._armed_at_s))
        return near

    def _on_watchdog_exit(self, extent: Extent, watchdog: Watchdog) -> None:
        self._close_watchdog("the watchdog has ended")
        log.warning("%s: the watchdog (pid %d) has ended: never armed again", extent, watchdog.pid)

    def _release(self, extent: Extent, watchdog: Watchdog) -> None:
        # `unregister` wakes no writer, so the protection is lifted first: if vramtap is stopped in between,
        # no writer may stay suspended. `lift` stops where other memory is mapped now, and wakes no writer
        # then.
        with contextlib.suppress(KernelError):
            watchdog.guard.lift(extent.address, extent.end)
        self._unregister(extent, watchdog)

    def _unregister(self, extent: Extent, watchdog: Watchdog) -> None:
        try:
            watchdog.guard.unregister(extent.address, extent.end)
            watchdog.guard.wake(extent.address, extent.end)
        except KernelError as error:
            # The kernel refuses the whole range if a part is an ordinary file now, or if all of it is gone.
            # Closing the descriptor drops every registration, and such memory cannot be armed.
            self._close_watchdog(str(error))

    def restore(self, runs: PageRuns) -> None:
        """Report these pages again."""
        self._log.restore(runs)

    @property
    def has_more(self) -> bool:
        """Whether the last answer was only the pages around the write that woke the tracker."""
        return self._has_more

    @property
    def wants_feedback(self) -> bool:
        """Whether the last answer had pages that were left unprotected."""
        return self._awaiting_feedback is not None

    def feedback(self, changed: PageRuns) -> None:
        """Decide with the unprotected pages that changed; see `Tracker.feedback`."""
        if self._awaiting_feedback is None:
            return
        written, self._awaiting_feedback = self._awaiting_feedback, None
        self._decide(written.union(changed.intersection(self._unprotected)))

    @property
    def idle_after_s(self) -> float:
        """0 while armed: no polling is needed."""
        return 0.0 if self.armed else self._log.idle_after_s

    def wake(self, callback: Callable[[], None]) -> Waker | None:
        """Wait for the watchdog's descriptor while armed.

        If the extent can never be armed, the log's `wake` does it. Otherwise None: the caller has to scan
        until the tracker is armed.
        """
        if not self.armed:
            return self._log.wake(callback) if self._watchdog is None else None
        assert self._watchdog is not None
        if self._log.has_pending:
            callback()
        return _Armed(self._watchdog.fileno())

    def stop(self) -> None:
        """Close both userfaultfds and end the watchdog: the kernel lifts all protection."""
        self.armed, self._has_more = False, False
        self._awaiting_feedback, self._unprotected = None, NO_PAGES
        try:
            self._close_watchdog("")
        finally:
            self._log.stop()


class _Armed:
    """Waker with the watchdog's descriptor."""

    def __init__(self, fd: int) -> None:
        self.fd: int | None = fd

    def cancel(self) -> None:
        """Do nothing: the descriptor belongs to the tracker."""
