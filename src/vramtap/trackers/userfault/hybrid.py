"""Tracker `hybrid`: logged where little is written, open where nearly all is, armed where nothing is.

How the three go together, and the order of everything here:

Facts. The log costs the writer a fault for the first write to a page after each look, and us a call that
protects again. Leaving pages open costs the writer nothing and us the reading of pages that may not have
changed. Both want us to look, sixty times a second, at a screen on which nothing happens. Synchronous
protection wants nothing until the first write, which then stands still until it is answered; and a range
belongs to one userfaultfd at a time, so between the log and it there is a moment in which nothing is
protected.

Consequences. A tile of pages is left open where it is written nearly always. An open page tells nothing, so
it is reported at every look; who reads it compares it with what he has, and that is as exact as the log. To
leave a tile open nothing need be done: its pages are not protected again. To log it again nothing need be
done either: its pages are unprotected, so they count as written, are reported once more and protected
before they are read. The whole extent is armed once looking in vain has cost what arming and waking cost.
What is written in the moment between the two descriptors is in no log: it is found by reading everything
once, after the new protection is in place; so both arming and handing over answer Everything.

Decision. All of it happens in `collect`. Armed: take the log's registration away, register and protect with
the other descriptor, answer Everything and stay armed. From then on `collect` answers nothing as long as
neither a fault is in the descriptor nor the watchdog has told of one: a write that is held has not
happened. When one has fired: let the watchdog finish, lift and wake what it has missed, take the range away
from it, protect it with the log, answer what lies around that write, for whoever waits for it, and
Everything after that. Which tile is what, and when to arm, is `policy`'s to say.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import time
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from vramtap.errors import KernelError, TargetGone, VramtapError
from vramtap.linux.inject import fetch_guarded
from vramtap.linux.watchdog import LATE_S, Watchdog
from vramtap.pages import NO_PAGES, PAGE_SIZE, PageRuns
from vramtap.policy.decide import OnlinePolicy, Parameters, Policy, State
from vramtap.policy.tiles import Tiles
from vramtap.trackers.base import AllDirty, Reason, Waker
from vramtap.trackers.poller import IDLE_INTERVAL_S
from vramtap.trackers.userfault.calibrate import measure_costs
from vramtap.trackers.userfault.log import LogTracker

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from vramtap.memory.extent import Extent
    from vramtap.policy.costs import Costs

SETTLE_S: Final = LATE_S
"""How long it is waited for here."""
GIVE_WAY_S: Final = 0.0001
"""For the writer that was released to get on: it takes 20 us where a processor is free."""
BEFORE_PAGES: Final = 8
AFTER_PAGES: Final = 56
"""Around the write that woke us, looked at before everything is: whoever draws goes on upwards. 64 pages are
read and compared in 0.2 ms, all of a screen in 2 to 4, and a viewer waits for the first of it."""
TILE_PAGES: Final = Parameters().tile_pages
"""What the rule was tuned with."""

log = logging.getLogger(__name__)


class HybridTracker:
    """Chooses between the log, comparing and waiting, tile by tile, from costs measured on the target.

    Needs and sees what `LogTracker` does. To be armed it needs more: another process's memory, anonymous or
    in a file in memory, and a full userfaultfd there (CAP_SYS_PTRACE in the target, or
    vm.unprivileged_userfaultfd=1). Where it cannot be armed it says why in `unarmable`, and asks while idle.

    Args:
        allow_filtered: Inject into a target that has a seccomp filter; see `linux.inject`.
        policy: Decides; the online rule by default.
        tile_pages: Of the tiles decided on.
        costs: Of this target; measured when armed if None.
        guest_cost_factor: A microsecond taken from the guest counts as so many of ours.
        latency_s: Between two questions while idle where it cannot be armed, seconds.
    """

    name: Final = "hybrid"
    prefers_window: Final = False
    precision: Final[Literal["exact", "superset"]] = "superset"

    def __init__(
        self,
        *,
        allow_filtered: bool = False,
        policy: Policy | None = None,
        tile_pages: int = TILE_PAGES,
        costs: Costs | None = None,
        guest_cost_factor: float = 1.0,
        latency_s: float = IDLE_INTERVAL_S,
    ) -> None:
        self._log = LogTracker(allow_filtered=allow_filtered, latency_s=latency_s)
        self._policy: Policy = OnlinePolicy() if policy is None else policy
        self._tile_pages = tile_pages
        self._given = self._costs = costs
        self._guest_weight = guest_cost_factor
        self._watchdog: Watchdog | None = None
        self._state: State
        self._tiles: Tiles
        self._open = NO_PAGES
        self._closed: NDArray[np.bool_]
        self._any_closed = False
        self._unjudged: PageRuns | None = None
        self._late = self._hurried = False
        self._armed_s = 0.0
        self.armed = False
        """Whether nothing is looked at until the first write."""
        self.unarmable = ""
        """Why it is never armed; empty where it can be."""

    @property
    def stopped_us(self) -> float:
        """How long a thread of the target stood still while we attached, in microseconds."""
        return self._log.stopped_us

    @property
    def costs(self) -> Costs:
        """What is decided by.

        Raises:
            VramtapError: not armed yet.
        """
        if self._costs is None:
            raise VramtapError("costs", "hybrid", "not armed", "call arm() first")
        return self._costs

    @property
    def left_open(self) -> PageRuns:
        """The pages that are not protected and reported at every look."""
        return self._open

    @property
    def watchdog_pid(self) -> int | None:
        """The process that answers the first write; None where there is none."""
        return self._watchdog.pid if self._watchdog is not None else None

    def start(self, extent: Extent) -> None:
        """Protect the extent with the log, and find out whether it can be armed and what everything costs.

        Raises:
            VramtapError: as `LogTracker.start`.
        """
        self.stop()
        try:
            if extent.space.pid == os.getpid():
                self._log.start(extent)
                self.unarmable = "memory of this process: a writer could hold the interpreter's lock"
            else:
                fetch = functools.partial(fetch_guarded, start=extent.address, end=extent.end)
                fetched = self._log.arm_fetched(extent, fetch)
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
        self._closed = np.zeros(len(self._tiles), dtype=np.bool_)
        self._any_closed = False
        self._open = self._tiles.runs(self._state.open)

    def _measure(self, extent: Extent) -> None:
        try:
            measured = measure_costs(extent, self._log, self._watchdog, self._guest_weight)
        except VramtapError as error:
            if self._watchdog is None:
                raise
            # A file on a disk, for one: it takes the log's protection but not the other.
            self._disarm_watchdog(str(error))
            measured = measure_costs(extent, self._log, None, self._guest_weight)
        self._costs = self._given or measured

    def _disarm_watchdog(self, why: str) -> None:
        self.unarmable, self._late = why, False
        watchdog, self._watchdog = self._watchdog, None
        if watchdog is not None:
            watchdog.close()

    @property
    def read_from(self) -> Extent:
        """The armed extent itself."""
        return self._log.read_from

    def collect(self, window: tuple[int, int] | None = None) -> PageRuns | AllDirty:
        """Read the log of the window, or change hands; see `Tracker.collect` and the comment above."""
        extent = self.read_from
        first, last = window or (0, extent.pages)
        if self.armed:
            assert self._watchdog is not None
            # A target that has ended writes nothing and fires nothing: asking for a hole finds out.
            if not self._watchdog.fired and self._log.whole:
                return self._log.pending(window)
            near = self._hand_over(extent, self._watchdog).clip(first, last)
            if near:
                self._hurried = True
                return near
        elif self._late and self._watchdog is not None:
            # Stopped, it leaves undone what only it is woken for: who moves or unmaps memory is held too.
            self._watchdog.take_over()
            self._late = not self._watchdog.answered
        self._hurried = False
        if self._unjudged is not None:
            # Nobody told what had changed: as far as we know, all of it.
            self.feedback(self._open)
        answer = self._log.collect_but(self._open, window)
        if isinstance(answer, AllDirty):
            return answer
        if self._open:
            self._unjudged = answer
            return answer.union(self._open.clip(first, last))
        self._decide(answer)
        if self._state.armed and not answer and self._arm_whole(extent):
            return self._log.pending(window)
        return answer

    def _decide(self, dirty: PageRuns) -> None:
        """Ask the policy, with the pages found written or changed."""
        counts = self._tiles.count(dirty)
        # These have been open: that all their pages are reported says nothing about this round.
        if self._any_closed:
            counts[self._closed] = 0
        self._take(self._policy.step(self._state, counts))

    def _take(self, state: State) -> None:
        if state.open is self._state.open:
            if self._any_closed:
                self._closed = np.zeros_like(self._closed)
                self._any_closed = False
        else:
            self._closed = self._state.open & ~state.open
            self._any_closed = bool(self._closed.any())
            self._open = self._tiles.runs(state.open)
        self._state = state

    def _arm_whole(self, extent: Extent) -> bool:
        """Protect synchronously; False where that cannot be now."""
        watchdog = self._watchdog
        if watchdog is None or self._late or self._log.has_pending or not self._log.whole:
            return False
        if not watchdog.ready():
            if not watchdog.alive:
                self._mourn(extent, watchdog)
            return False
        self._log.suspend(AllDirty(Reason.ARMED))
        registered = False
        try:
            watchdog.guard.register(extent.address, extent.end)
            registered = True
            # What is mapped into a hole is not registered and would never be heard of. A hole that is there
            # now is seen here; one that has been filled since we registered makes `protect` fail; and one
            # that is made from here on fires.
            if not self._log.whole:
                raise VramtapError("arm", str(extent), "it has a hole")
            watchdog.guard.protect(extent.address, extent.end)
        except BaseException as error:
            if registered:  # else it may be another's, whose protection must not be lifted
                self._release(extent, watchdog)
            self._log.resume(AllDirty(Reason.REMAPPED, f"not armed: {error}"))
            if not isinstance(error, VramtapError) or isinstance(error, TargetGone):
                raise
            log.info("%s: not armed: %s", extent, error)
            return True
        self.armed, self._armed_s = True, time.monotonic()
        return True

    def _hand_over(self, extent: Extent, watchdog: Watchdog) -> PageRuns:
        """From synchronous protection to the log.

        Returns:
            Pages to be looked at first: where the writer was held, and a few around it.
        """
        near = NO_PAGES
        if watchdog.settle(SETTLE_S):
            # The writer may have been put on our processor, behind us, for as long as we go on (up to a tick
            # of 4 ms, measured); there is no event to wait for that says that it runs.
            time.sleep(GIVE_WAY_S)
            page = (watchdog.where - extent.address) // PAGE_SIZE
            if 0 <= page < extent.pages:
                near = PageRuns([(max(0, page - BEFORE_PAGES), min(extent.pages, page + AFTER_PAGES))])
        else:
            if watchdog.alive:
                log.warning("%s: the watchdog (pid %d) did not answer a write", extent, watchdog.pid)
            watchdog.call()
            self._late = True
        self._release(extent, watchdog)
        self.armed = False
        if self._watchdog is not None:
            watchdog.take_over()
        if self._log.resume(AllDirty(Reason.WOKEN)).reason is not Reason.WOKEN:
            near = NO_PAGES  # there may be no memory there any more
        if self._watchdog is not None and not watchdog.alive:
            self._mourn(extent, watchdog)
        self._take(self._policy.woken(self._state, time.monotonic() - self._armed_s))
        return near

    def _mourn(self, extent: Extent, watchdog: Watchdog) -> None:
        self._disarm_watchdog("the watchdog has ended")
        log.warning("%s: the watchdog (pid %d) has ended: never armed again", extent, watchdog.pid)

    def _release(self, extent: Extent, watchdog: Watchdog) -> None:
        # To take the registration away wakes nobody, so the protection is lifted first: stopped in between,
        # we must leave no writer held. Lifting stops where something else lies now, and wakes nobody then.
        with contextlib.suppress(KernelError):
            watchdog.guard.lift(extent.address, extent.end)
        self._unregister(extent, watchdog)

    def _unregister(self, extent: Extent, watchdog: Watchdog) -> None:
        try:
            watchdog.guard.unregister(extent.address, extent.end)
            watchdog.guard.wake(extent.address, extent.end)
        except KernelError as error:
            # Refused as a whole where a part has become an ordinary file, or all is gone. What is closed lets
            # go of everything, and such memory cannot be armed.
            self._disarm_watchdog(str(error))

    def restore(self, runs: PageRuns) -> None:
        """Report these pages again."""
        self._log.restore(runs)

    @property
    def has_more(self) -> bool:
        """After what lies around a write was answered, until everything is."""
        return self._hurried

    @property
    def wants_feedback(self) -> bool:
        """After pages that were left open have been reported."""
        return self._unjudged is not None

    def feedback(self, changed: PageRuns) -> None:
        """Decide with what changed in the pages that were reported unasked; see `Tracker.feedback`."""
        if self._unjudged is None:
            return
        written, self._unjudged = self._unjudged, None
        self._decide(written.union(changed.intersection(self._open)))

    @property
    def idle_after_s(self) -> float:
        """Armed none: there is nothing to be looked at."""
        return 0.0 if self.armed else self._log.idle_after_s

    def wake(self, callback: Callable[[], None]) -> Waker | None:
        """Armed, a descriptor; where that cannot be, the log's question; else nothing, as long as we look."""
        if not self.armed:
            return self._log.wake(callback) if self._watchdog is None else None
        assert self._watchdog is not None
        if self._log.has_pending:
            callback()
        return _Armed(self._watchdog.fileno())

    def stop(self) -> None:
        """Close both userfaultfds and let the watchdog go: the kernel lifts all protection."""
        self.armed, self._hurried, self._unjudged, self._open = False, False, None, NO_PAGES
        try:
            self._disarm_watchdog("")
        finally:
            self._log.stop()


class _Armed:
    """A wait for the watchdog's descriptor."""

    def __init__(self, fd: int) -> None:
        self.fd: int | None = fd

    def cancel(self) -> None:
        """Nothing is under way: the descriptor stays the tracker's."""
