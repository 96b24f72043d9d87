"""Recording: a target is attached to as a tap does, and what its log says is kept, interval by interval.

Looks are taken at fixed times from the begin, so that a late one makes none of those after it late. Only the
log is read: no pixel is.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from typing import Final

from vramtap.display.mode import Mode
from vramtap.errors import TargetGone, TimedOut, VramtapError
from vramtap.memory.extent import Extent
from vramtap.tap import GONE_GRACE_S, MODE_BUSY_S, MODE_IDLE_S
from vramtap.targets.contract import Target
from vramtap.trace.recording import Follower, Recording
from vramtap.trackers.contract import Tracker
from vramtap.trackers.writelog import LogTracker

MAX_HZ: Final = 1000
"""Looks a second: timers have a millisecond's grain."""

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
) -> None:
    """Record a target until the time is over, it ends, or its screen takes another number of pages.

    A target without a linear mode is waited for.

    Args:
        target: Not yet attached; attached and released here.
        recording: What takes it all; of use whatever becomes of this call, once there are looks.
        hz: Looks a second.
        seconds: How long to record, from the first linear mode on.
        progress: Told after each look.

    Raises:
        AttachError: the target cannot be tapped.
        TargetGone: it ended before the first look.
        VramtapError: its writes cannot be logged, or a look failed.
        asyncio.CancelledError: the caller wants no more; the recording says so and stays.
    """
    async with target:
        tracker = LogTracker(allow_filtered=target.tolerates_injection)
        try:
            await _arm(tracker, target)
            gone = asyncio.create_task(target.gone())
            try:
                recording.ended = await _Session(target, tracker, recording, gone, hz).run(seconds, progress)
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
            tracker.disarm()


async def _arm(tracker: LogTracker, target: Target) -> None:
    """Protect the extent, from a thread: attaching waits for the target's threads.

    Raises:
        TargetGone: it has ended.
        VramtapError: its writes cannot be logged.
    """
    arming = asyncio.create_task(asyncio.to_thread(arm, tracker, target.extent, target.url))
    try:
        await asyncio.shield(arming)
    except asyncio.CancelledError:
        # The thread goes on: the caller disarms what it arms.
        await asyncio.wait([arming])
        raise


def arm(tracker: LogTracker, extent: Extent, name: str) -> None:
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
        tracker.arm(extent)
    except TargetGone:
        raise
    except VramtapError as error:
        raise VramtapError(
            "trace record", name, f"its writes cannot be logged: {error}", "see vramtap doctor"
        ) from error


async def _account(gone: asyncio.Task[str], error: TargetGone) -> str:
    done, _ = await asyncio.wait([gone], timeout=GONE_GRACE_S)
    return gone.result() if done and gone.exception() is None else str(error)


class _Session:
    """A target that is attached and logged."""

    def __init__(
        self, target: Target, tracker: Tracker, recording: Recording, gone: asyncio.Task[str], hz: float
    ) -> None:
        self._target = target
        self._tracker = tracker
        self._recording = recording
        self._gone = gone
        self._interval_s = 1 / hz
        self._mode_due_s = float("-inf")

    async def run(self, seconds: float, progress: Progress) -> str:
        """Look until something ends it; returns what."""
        loop = asyncio.get_running_loop()
        self._target.on_activity = self._nudge
        mode = await self._first_mode()
        follower = Follower(self._tracker, self._recording, mode)
        begin_s, begin_ns = loop.time(), time.monotonic_ns()
        looks, last = 0, looks_in(seconds, 1 / self._interval_s)
        while looks < last:
            next_look = max(looks + 1, math.ceil((loop.time() - begin_s) / self._interval_s))
            self._recording.skipped(next_look - looks - 1)
            looks = next_look
            if await self._gone_by(begin_s + looks * self._interval_s):
                return self._gone.result()
            answer, now_ns = follower.collect(), time.monotonic_ns()
            ended = follower.keep(now_ns - begin_ns, answer, await self._mode(follower.mode, bool(answer)))
            progress(self._recording)
            if ended:
                return ended
        return f"after {seconds:g} s"

    def _nudge(self) -> None:
        self._mode_due_s = float("-inf")

    async def _first_mode(self) -> Mode:
        """Wait for a linear mode.

        Raises:
            TargetGone: the target ended before.
        """
        mode = await self._target.mode()
        if mode is None:
            log.warning("%s: shows no linear mode yet; waiting for one", self._target.url)
        while mode is None:
            if await self._gone_by(asyncio.get_running_loop().time() + MODE_BUSY_S):
                raise TargetGone("trace record", self._target.url, "ended before it showed a linear mode")
            mode = await self._target.mode()
        return mode

    async def _mode(self, last: Mode, active: bool) -> Mode | None:
        """The mode, asked for when it is due, which is as often as a tap would."""
        now_s = asyncio.get_running_loop().time()
        if now_s < self._mode_due_s:
            if active:
                self._mode_due_s = min(self._mode_due_s, now_s + MODE_BUSY_S)
            return last
        # A nudge from here on may be about what the answer does not know yet.
        self._mode_due_s = now_s + (MODE_BUSY_S if active else MODE_IDLE_S)
        try:
            return await self._target.mode()
        except TimedOut as error:
            log.warning("%s; taken to be as before", error)
            return last

    async def _gone_by(self, due_s: float) -> bool:
        """Wait until then, on the loop's clock, or for the target's end; returns whether it has ended."""
        wait_s = due_s - asyncio.get_running_loop().time()
        done, _ = await asyncio.wait([self._gone], timeout=max(0.0, wait_s))
        return bool(done)
