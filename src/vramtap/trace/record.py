"""Recording: a target is attached to as a tap does, and what its log says is kept, interval by interval.

Looks are taken at fixed times from the begin, so that a late one makes none of those after it late. Only the
log is read: no pixel is.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from vramtap.errors import TargetGone, TimedOut, VramtapError
from vramtap.policy.costs import Costs
from vramtap.policy.decide import LogAlways
from vramtap.tap.timings import DEFAULT_TIMINGS
from vramtap.trace.recording import Follower, Recording
from vramtap.trackers.userfault.hybrid import HybridTracker
from vramtap.trackers.userfault.log import LogTracker

if TYPE_CHECKING:
    from vramtap.display.mode import Mode
    from vramtap.memory.extent import Extent
    from vramtap.targets.base import Target
    from vramtap.trackers.base import Tracker

MAX_HZ: Final = 1000
"""Looks a second: timers have a millisecond's grain."""

MEASUREMENTS: Final = 5
"""Of the target's costs; each takes some 40 ms, and one that was interrupted says nothing of the target."""
STOPPED: Final = "stopped"
"""What ended a recording that its user ended."""

log = logging.getLogger(__name__)

Progress = Callable[[Recording], None]
"""Told after each look, on the thread that looks."""


def looks_in(seconds: float, hz: float) -> int:
    """How many looks a recording of so many seconds takes; at least one."""
    # 0.1 * 60 and its like come out a little short of what they mean.
    return max(1, math.floor(seconds * hz + 1e-9))


async def record(
    target: Target,
    recording: Recording,
    *,
    hz: float,
    seconds: float,
    progress: Progress = lambda recording: None,
    now_ns: Callable[[], int] = time.monotonic_ns,
) -> None:
    """Record a target until the time is over, it ends, or its screen takes another number of pages.

    A target without a linear mode is waited for.

    Args:
        target: Not yet attached; attached and released here.
        recording: What takes it all; of use whatever becomes of this call, once there are looks.
        hz: Looks a second.
        seconds: How long to record, from the first linear mode on.
        progress: Told after each look.
        now_ns: The clock, nanoseconds.

    Raises:
        AttachError: the target cannot be tapped.
        TargetGone: it ended before the first look.
        VramtapError: its writes cannot be logged, or a look failed.
        asyncio.CancelledError: the caller wants no more; the recording says so and stays.
    """
    async with target:
        tracker = LogTracker(allow_filtered=target.tolerates_injection)
        try:
            await _arm(tracker, target, recording)
            gone = asyncio.create_task(target.gone())
            try:
                session = _Session(target, tracker, recording, gone, hz, now_ns)
                recording.ended = await session.run(seconds, progress)
            except TargetGone as error:
                # Its own account of its end says more than the call that failed.
                recording.ended = await _account(gone, error)
                if not recording.looks:
                    raise
            except asyncio.CancelledError:
                recording.ended = STOPPED
                raise
            except VramtapError as error:
                recording.ended = str(error)
                raise
            finally:
                gone.cancel()
                await asyncio.wait([gone])
        finally:
            tracker.stop()


async def _arm(tracker: LogTracker, target: Target, recording: Recording) -> None:
    """Protect the extent, from a thread: attaching waits for the target's threads.

    Raises:
        TargetGone: it has ended.
        VramtapError: its writes cannot be logged.
    """

    def work() -> None:
        recording.costs = measured(target)
        start_log(tracker, target.extent, target.url)

    arming = asyncio.create_task(asyncio.to_thread(work))
    try:
        await asyncio.shield(arming)
    except asyncio.CancelledError:
        # The thread goes on: the caller disarms what it arms. (What it met, shield() has taken note of.)
        await asyncio.wait([arming])
        raise


def measured(target: Target) -> Costs | None:
    """What following writes costs on this target; None where not all of it can be measured.

    Args:
        target: Attached; what is measured is the median of `MEASUREMENTS`.
    """
    found = []
    for _ in range(MEASUREMENTS):
        # One that has measured keeps to it.
        hybrid = HybridTracker(allow_filtered=target.tolerates_injection, policy=LogAlways())
        try:
            hybrid.start(target.extent)
            if hybrid.unarmable:
                log.info("%s: costs not measured: it cannot be armed: %s", target.url, hybrid.unarmable)
                return None
            found.append(hybrid.costs)
        except VramtapError as error:
            # What makes the recording fail as well is said there.
            log.info("%s: costs not measured: %s", target.url, error)
            return None
        finally:
            hybrid.stop()
    names = [field.name for field in dataclasses.fields(Costs)]
    return Costs(**{name: statistics.median(getattr(each, name) for each in found) for name in names})


def start_log(tracker: LogTracker, extent: Extent, name: str) -> None:
    """Protect an extent, or say why there will be no recording.

    Args:
        tracker: To arm.
        extent: Of the target.
        name: What messages call the target.

    Raises:
        TargetGone: it has ended.
        VramtapError: its writes cannot be logged.
    """
    try:
        tracker.start(extent)
    except TargetGone:
        raise
    except VramtapError as error:
        raise VramtapError(
            "trace record", name, f"its writes cannot be logged: {error}", "see vramtap doctor"
        ) from error


async def _account(gone: asyncio.Task[str], error: TargetGone) -> str:
    done, _ = await asyncio.wait([gone], timeout=DEFAULT_TIMINGS.gone_grace_s)
    return gone.result() if done and gone.exception() is None else str(error)


class _Session:
    """A target that is attached and logged."""

    def __init__(
        self,
        target: Target,
        tracker: Tracker,
        recording: Recording,
        gone: asyncio.Task[str],
        hz: float,
        now_ns: Callable[[], int],
    ) -> None:
        self._target = target
        self._tracker = tracker
        self._recording = recording
        self._gone = gone
        self._hz = hz
        self._now_ns = now_ns
        self._mode_due_ns = 0

    async def run(self, seconds: float, progress: Progress) -> str:
        """Look until something ends it; returns what."""
        self._target.watch(self._nudge)
        follower = Follower(self._tracker, self._recording, await self._first_mode())
        begin_ns, interval_ns = self._now_ns(), 1e9 / self._hz
        look, last = 0, looks_in(seconds, self._hz)
        while look < last:
            # Those that were missed are over: a later look cannot make up for them.
            due = max(look + 1, math.ceil((self._now_ns() - begin_ns) / interval_ns))
            self._recording.skipped(due - look - 1)
            look = due
            try:
                if await self._gone_by(begin_ns + round(look * interval_ns)):
                    return self._gone.result()
            except asyncio.CancelledError:
                # What was written until now is still of this recording.
                follower.keep(self._now_ns() - begin_ns, follower.collect(), follower.mode)
                raise
            answer, at_ns = follower.collect(), self._now_ns() - begin_ns
            mode: Mode | None = follower.mode
            try:
                mode = await self._mode(follower.mode, bool(answer))
            finally:
                # Whatever became of the question: these writes are told once.
                ended = follower.keep(at_ns, answer, mode)
            progress(self._recording)
            if ended:
                return ended
        return f"after {seconds:g} s"

    def _nudge(self) -> None:
        self._mode_due_ns = 0

    async def _first_mode(self) -> Mode:
        """Wait for a linear mode.

        Raises:
            TargetGone: the target ended before.
        """
        mode = await self._target.mode()
        if mode is None:
            log.warning("%s: shows no linear mode yet; waiting for one", self._target.url)
        while mode is None:
            if await self._gone_by(self._now_ns() + _ns(DEFAULT_TIMINGS.mode_busy_s)):
                raise TargetGone("trace record", self._target.url, "ended before it showed a linear mode")
            mode = await self._target.mode()
        return mode

    async def _mode(self, last: Mode, active: bool) -> Mode | None:
        """The mode, asked for when it is due, which is as often as a tap would."""
        now_ns = self._now_ns()
        if now_ns < self._mode_due_ns:
            if active:
                self._mode_due_ns = min(self._mode_due_ns, now_ns + _ns(DEFAULT_TIMINGS.mode_busy_s))
            return last
        # A nudge from here on may be about what the answer does not know yet.
        self._mode_due_ns = now_ns + _ns(
            DEFAULT_TIMINGS.mode_busy_s if active else DEFAULT_TIMINGS.mode_idle_s
        )
        try:
            return await self._target.mode()
        except TimedOut as error:
            log.warning("%s; taken to be as before", error)
            return last

    async def _gone_by(self, due_ns: int) -> bool:
        """Wait until then, or for the target's end; returns whether it has ended."""
        wait_s = max(0, due_ns - self._now_ns()) / 1e9
        done, _ = await asyncio.wait([self._gone], timeout=wait_s)
        return bool(done)


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
