"""Record a target: attach as a tap does, and keep what the write log reports, interval by interval.

The recorder scans at fixed times after its begin, so that a late scan does not delay the later ones. It reads
the log only, and no pixels.
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

MEASUREMENTS: Final = 5
"""Measurements of the target's costs; each takes some 40 ms. The median drops those that were interrupted."""
STOPPED: Final = "stopped"
"""End reason of a recording that its user stopped."""

log: logging.Logger = logging.getLogger(__name__)

Progress = Callable[[Recording], None]
"""Called after each interval, on the thread that scans."""


def intervals_in(seconds: float, hz: float) -> int:
    """Return the number of intervals of a recording of this length; at least one."""
    # Products such as 0.1 * 60 come out slightly too small.
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
    """Record a target until the time is over, it ends, or its screen gets another number of pages.

    If the target shows no linear mode, the recording begins when it does.

    Args:
        target: Target, not attached; this call attaches and releases it.
        recording: Receives the intervals. It remains usable if this call fails after the first interval.
        hz: Intervals a second.
        seconds: Length of the recording, from the first linear mode on, seconds.
        progress: Called after each interval.
        now_ns: Returns the time, nanoseconds.

    Raises:
        AttachError: The target cannot be tapped.
        TargetGone: The target ended before the first interval.
        VramtapError: The target's writes cannot be logged, or a scan failed.
        asyncio.CancelledError: The caller cancelled the recording, which keeps its intervals.
    """
    async with target:
        tracker = LogTracker(allow_filtered=target.tolerates_injection)
        try:
            await _start(tracker, target, recording)
            gone = asyncio.create_task(target.gone())
            try:
                session = _Session(target, tracker, recording, gone, hz, now_ns)
                recording.ended = await session.run(seconds, progress)
            except TargetGone as error:
                recording.ended = await _end_of(gone, error)
                if not recording.intervals:
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


async def _start(tracker: LogTracker, target: Target, recording: Recording) -> None:
    """Measure the costs and start the tracker, on a thread: attaching waits for the target's threads.

    Raises:
        TargetGone: The target has ended.
        VramtapError: The target's writes cannot be logged.
    """

    def work() -> None:
        recording.costs = measured(target)
        start_log(tracker, target.extent, target.url)

    starting = asyncio.create_task(asyncio.to_thread(work))
    try:
        await asyncio.shield(starting)
    except asyncio.CancelledError:
        # The thread cannot be cancelled. The caller stops the tracker that it starts. shield() has retrieved
        # the thread's exception.
        await asyncio.wait([starting])
        raise


def measured(target: Target) -> Costs | None:
    """Measure what tracking costs on a target.

    Args:
        target: Attached target.

    Returns:
        Medians of `MEASUREMENTS`; None if not all costs can be measured.
    """
    found = []
    for _ in range(MEASUREMENTS):
        # A tracker measures once and keeps the result, so each measurement needs a new one.
        hybrid = HybridTracker(allow_filtered=target.tolerates_injection, policy=LogAlways())
        try:
            hybrid.start(target.extent)
            if hybrid.unarmable:
                log.info("%s: costs not measured: it cannot be armed: %s", target.url, hybrid.unarmable)
                return None
            found.append(hybrid.costs)
        except VramtapError as error:
            # An error that also fails the recording is reported by the recording.
            log.info("%s: costs not measured: %s", target.url, error)
            return None
        finally:
            hybrid.stop()
    names = [field.name for field in dataclasses.fields(Costs)]
    return Costs(**{name: statistics.median(getattr(each, name) for each in found) for name in names})


def start_log(tracker: LogTracker, extent: Extent, name: str) -> None:
    """Start the write log of an extent.

    Args:
        tracker: Tracker to start.
        extent: The target's extent.
        name: Name of the target in messages.

    Raises:
        TargetGone: The target has ended.
        VramtapError: The target's writes cannot be logged.
    """
    try:
        tracker.start(extent)
    except TargetGone:
        raise
    except VramtapError as error:
        raise VramtapError(
            "trace record", name, f"its writes cannot be logged: {error}", "see vramtap doctor"
        ) from error


async def _end_of(gone: asyncio.Task[str], error: TargetGone) -> str:
    """Return the target's own account of its end, if it gives one in time; else the error's text."""
    done, _ = await asyncio.wait([gone], timeout=DEFAULT_TIMINGS.gone_grace_s)
    return gone.result() if done and gone.exception() is None else str(error)


class _Session:
    """The scanning of a target that is attached and logged."""

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
        """Scan until the recording ends; return why it ended."""
        self._target.watch(self._on_activity)
        follower = Follower(self._tracker, self._recording, await self._first_mode())
        begin_ns, interval_ns = self._now_ns(), 1e9 / self._hz
        interval, last = 0, intervals_in(seconds, self._hz)
        while interval < last:
            # Intervals that were missed are skipped: a later scan cannot tell their writes apart.
            due = max(interval + 1, math.ceil((self._now_ns() - begin_ns) / interval_ns))
            self._recording.count_skipped(due - interval - 1)
            interval = due
            try:
                if await self._gone_by(begin_ns + round(interval * interval_ns)):
                    return self._gone.result()
            except asyncio.CancelledError:
                # The writes until the cancellation belong to the recording.
                follower.add(self._now_ns() - begin_ns, follower.collect(), follower.mode)
                raise
            answer, at_ns = follower.collect(), self._now_ns() - begin_ns
            mode: Mode | None = follower.mode
            try:
                mode = await self._mode(follower.mode, active=bool(answer))
            finally:
                # The tracker reports these writes once, so they are kept even if the mode cannot be read.
                ended = follower.add(at_ns, answer, mode)
            progress(self._recording)
            if ended:
                return ended
        return f"after {seconds:g} s"

    def _on_activity(self) -> None:
        """Read the mode at the next scan."""
        self._mode_due_ns = 0

    async def _first_mode(self) -> Mode:
        """Wait for a linear mode.

        Raises:
            TargetGone: The target ended before it showed one.
        """
        mode = await self._target.mode()
        if mode is None:
            log.warning("%s: shows no linear mode yet; waiting for one", self._target.url)
        while mode is None:
            if await self._gone_by(self._now_ns() + _ns(DEFAULT_TIMINGS.mode_busy_s)):
                raise TargetGone("trace record", self._target.url, "ended before it showed a linear mode")
            mode = await self._target.mode()
        return mode

    async def _mode(self, last: Mode, *, active: bool) -> Mode | None:
        """Return the mode; read it if that is due, as often as a tap would.

        Args:
            last: The mode at the last scan.
            active: Whether pages were written since.
        """
        now_ns = self._now_ns()
        if now_ns < self._mode_due_ns:
            if active:
                self._mode_due_ns = min(self._mode_due_ns, now_ns + _ns(DEFAULT_TIMINGS.mode_busy_s))
            return last
        # Set before the read: activity during the read may be about a newer mode, and makes another read due.
        self._mode_due_ns = now_ns + _ns(
            DEFAULT_TIMINGS.mode_busy_s if active else DEFAULT_TIMINGS.mode_idle_s
        )
        try:
            return await self._target.mode()
        except TimedOut as error:
            log.warning("%s; the recording keeps the last mode", error)
            return last

    async def _gone_by(self, due_ns: int) -> bool:
        """Wait until a time, or until the target ends; return whether it has ended."""
        wait_s = max(0, due_ns - self._now_ns()) / 1e9
        done, _ = await asyncio.wait([self._gone], timeout=wait_s)
        return bool(done)


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
