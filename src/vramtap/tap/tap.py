"""Tap: one watched target, and the one place where target, tracker, screen and viewers meet."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, Self

from vramtap.concurrency import run_in_thread
from vramtap.display.screen import Screen
from vramtap.errors import TargetGone, VramtapError
from vramtap.pages import NO_PAGES
from vramtap.tap.controls import Controls
from vramtap.tap.pipeline import Pipeline
from vramtap.tap.scheduler import Due, HandToWaker, Scheduler
from vramtap.tap.stats import TapStats
from vramtap.tap.timings import DEFAULT_TIMINGS, TapTimings
from vramtap.tap.viewer import Viewer, Watcher
from vramtap.trackers.choose import Choice, TrackerOptions, choose

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
    from types import TracebackType

    from vramtap.display.damage import Damage
    from vramtap.pages import PageRuns
    from vramtap.tap.scheduler import Decision
    from vramtap.targets.base import Target
    from vramtap.trackers.base import AllDirty, Tracker, Waker

log: logging.Logger = logging.getLogger(__name__)


class Tap(Controls):
    r"""One watched target: target, tracker and screen, giving damage to viewers.

    An async context manager for one event loop. Nothing is polled while no viewer waits.

    ```python
    async with vramtap.open("qemu:/run/vm.qmp") as tap:
        await tap.type("uname -a\n")
        async for damage in tap.changes():
            print(damage.rects)
    ```

    Args:
        target: Not attached yet. The tap attaches it and detaches it.
        tracker: Name of the tracker, or `auto`.
        options: The user's options for the tracker.
        timings: Intervals.
        choose: Starts the tracker; `vramtap.trackers.choose.choose` by default.
    """

    def __init__(
        self,
        target: Target,
        tracker: str = "auto",
        *,
        options: TrackerOptions | None = None,
        timings: TapTimings = DEFAULT_TIMINGS,
        choose: Callable[..., Choice] = choose,
    ) -> None:
        super().__init__()
        self.target: Target = target
        self.screen: Screen = Screen()
        self.stats: TapStats = TapStats()
        self.closed: str | None = None
        """Why the tap has ended, in one clause; None while it runs."""
        self._tracker_name = tracker
        self._options = options
        self._timings = timings
        self._choose = choose
        self._tracker: Tracker
        self._pipeline: Pipeline
        self._scheduler = Scheduler(timings)
        self._viewers: set[Viewer] = set()
        self._ended = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._waker: Waker | None = None
        self._scanning: asyncio.Task[VramtapError | None] | None = None
        self._gone: asyncio.Task[None] | None = None
        self._unwatch: Callable[[], None] = lambda: None
        self._last_warning: tuple[type[VramtapError], str] | None = None

    # Lifecycle

    async def __aenter__(self) -> Self:
        """Attach, start the tracker and take the first picture.

        Raises:
            AttachError: the target cannot be tapped.
            VramtapError: the requested tracker cannot watch it.
        """
        self._loop = asyncio.get_running_loop()
        await self.target.__aenter__()
        try:
            choice = await self._start_tracker()
            self._tracker = choice.tracker
            self.stats.tracker, self.stats.tracker_why = choice.tracker.name, choice.why
            self.stats.stopped_us = choice.stopped_us
            self._pipeline = Pipeline(
                self.target,
                self._tracker,
                self.screen,
                self.stats,
                self._publish,
                self._loop.time,
                self._timings,
            )
            # Before the first scan, so that no event after it is missed.
            self._unwatch = self.target.watch(self._target_active)
            try:
                now_s = self._loop.time()
                self._scheduler.scan_began(now_s)
                await self._pipeline.first_scan(now_s)
                self._scheduler.scan_ended(now_s)
            except BaseException:
                self._unwatch()
                self._tracker.stop()
                raise
        except BaseException as error:
            await self.target.__aexit__(type(error), error, error.__traceback__)
            raise
        self._gone = asyncio.create_task(self._watch_target())
        return self

    async def _start_tracker(self) -> Choice:
        def work() -> Choice:
            allow = self.target.tolerates_injection
            return self._choose(
                self._tracker_name, self.target.extent, allow_filtered=allow, options=self._options
            )

        return await run_in_thread(work, lambda choice: choice.tracker.stop())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop scanning, stop the tracker, and detach the target."""
        self._close("the tap was closed")
        tasks: list[asyncio.Task[Any]] = [task for task in (self._scanning, self._gone) if task is not None]
        for task in tasks:
            task.cancel()
        try:
            if tasks:
                await asyncio.wait(tasks)
        finally:
            self._unwatch()
            self._tracker.stop()
            await self.target.__aexit__(kind, error, trace)

    async def ended(self) -> str:
        """Wait until the target has ended or the tap is closed.

        Returns:
            What happened, in one clause.
        """
        await self._ended.wait()
        return self.closed or ""

    def check(self) -> None:
        """Do nothing while the tap runs.

        Raises:
            TargetGone: the tap has ended; says why.
        """
        if self.closed is not None:
            raise TargetGone("tap", self.target.url, self.closed)

    async def _watch_target(self) -> None:
        self._close(await self.target.gone())

    def _close(self, reason: str) -> None:
        """End the tap; the first reason stays."""
        if self.closed is None:
            self.closed = reason
            self._ended.set()
            log.info("%s: %s", self.target.url, reason, extra={"target": self.target.url})
        self._stop_waiting()
        for viewer in self._viewers:
            viewer.wake()

    # Viewers

    def viewer(self, name: str) -> Viewer:
        """Return a new viewer, to be entered with `with`; its backlog is the whole screen then.

        Args:
            name: For log lines.
        """
        return Viewer(self, name)

    async def changes(self) -> AsyncIterator[Damage]:
        """Yield damage as it happens, merged while the caller is busy; end with the target.

        Yields:
            Never empty. The rectangles are exact while the caller keeps up, else rounded outward.
        """
        with Watcher(self, "changes") as watcher:
            while True:
                try:
                    damage = await watcher.next()
                except TargetGone:
                    return
                yield damage

    async def refresh(self) -> None:
        """Scan once, now. Afterwards the screen shows the target as it was at the call, or later.

        Raises:
            TargetGone: the target has ended.
            VramtapError: the scan failed. It is repeated while a viewer waits, or by another call.
        """
        error = await self._scan_once(read_mode=True)
        if error is not None:
            raise error

    async def fresh(self) -> None:
        """Make sure that the screen is hardly older than an interval.

        Raises:
            TargetGone: the target has ended.
        """
        if self._scheduler.is_stale(self._loop.time()):
            await self._scan_once(read_mode=False)

    @contextlib.contextmanager
    def wanted(self) -> Iterator[None]:
        """Scan at the interval while the context is open: a viewer waits."""
        self._scheduler.viewer_waits()
        self._schedule()
        try:
            yield
        finally:
            self._scheduler.viewer_served()
            if not self._scheduler.waited_for:
                self._stop_waiting()

    def join(self, viewer: Viewer) -> None:
        """Give this viewer all damage from now on."""
        self._viewers.add(viewer)

    def leave(self, viewer: Viewer) -> None:
        """Give this viewer no more damage."""
        self._viewers.discard(viewer)

    @property
    def viewers(self) -> int:
        """Number of viewers."""
        return len(self._viewers)

    def _publish(self, damage: Damage) -> None:
        if damage:
            self._scheduler.pixels_changed()
            self.stats.updates += 1
            for viewer in self._viewers:
                viewer.add(damage)

    # Carrying out the schedule

    def _schedule(self) -> None:
        """Sleep or wait for the waker, as the scheduler decides, unless that is arranged already."""
        if self._timer is not None or self.closed is not None:
            return
        decision = self._decide()
        if isinstance(decision, HandToWaker):
            if self._waker is None:
                self._waker = self._tracker.wake(self._woken_in_thread)
            if self._waker is None:
                due_s = decision.otherwise_s
            else:
                if self._waker.fd is not None:
                    self._loop.add_reader(self._waker.fd, self._woken)
                self._scheduler.handed_over()
                due_s = max(decision.otherwise_s, self._pipeline.mode_clock.due_s)
        else:
            due_s = decision.due_s
        if due_s != float("inf"):
            self._timer = self._loop.call_at(due_s, self._tick)

    def _decide(self) -> Decision:
        return self._scheduler.next(
            has_more=self._tracker.has_more,
            may_arm=self._pipeline.may_arm,
            tracker_idle_after_s=self._tracker.idle_after_s,
            mode_due_s=self._pipeline.mode_clock.due_s,
        )

    def _stop_waiting(self) -> None:
        if self._waker is not None:
            if self._waker.fd is not None:
                self._loop.remove_reader(self._waker.fd)
            self._waker.cancel()
            self._waker = None
            self._scheduler.taken_back()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _woken_in_thread(self) -> None:
        self._loop.call_soon_threadsafe(self._woken)

    def _woken(self) -> None:
        if self._waker is None:
            return
        # A tracker that calls back has seen the write; a descriptor becomes readable before the store.
        write_seen = self._waker.fd is None
        self._stop_waiting()
        self._scheduler.woken(self._loop.time(), write_seen=write_seen)
        if self._scanning is None:
            self._scan_now()

    def _tick(self) -> None:
        self._timer = None
        if self.closed is not None:
            return
        match self._scheduler.due():
            case Due.SCAN:
                self._scan_now()
            case Due.MODE:
                self._scheduler.scan_began(self._loop.time())
                self._start(self._scan(NO_PAGES))
            case Due.NOTHING:
                pass

    def _target_active(self) -> None:
        """Read the mode soon: the target announced an event that no page write shows."""
        self._pipeline.mode_clock.hurry()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._schedule()

    # Scanning

    async def _scan_once(self, *, read_mode: bool) -> VramtapError | None:
        """Scan once; returns what failed."""
        self.check()
        # Not only once: another caller that waited for the same scan may start the next one first.
        while self._scanning is not None:
            await asyncio.wait([self._scanning])
        self.check()
        self._stop_waiting()
        if read_mode:
            self._pipeline.mode_clock.hurry()
        self._scan_now()
        scanning = self._scanning
        if scanning is None:
            return None
        await asyncio.wait([scanning])
        self.check()
        error = scanning.result()
        if error is None and self._tracker.has_more:
            return await self._scan_once(read_mode=False)
        return error

    def _scan_now(self) -> None:
        """Poll the tracker. Start a task only if there is something to do."""
        now_s = self._loop.time()
        self._scheduler.scan_began(now_s)
        try:
            answer = self._pipeline.collect()
        except Exception as error:
            self._start(self._failed(error))
            return
        if self._pipeline.has_work(answer, now_s):
            self._start(self._scan(answer))
        else:
            self._scan_ended()

    def _start(self, scan: Coroutine[object, None, VramtapError | None]) -> None:
        self._scanning = asyncio.create_task(self._supervise(scan))

    async def _supervise(self, scan: Coroutine[object, None, VramtapError | None]) -> VramtapError | None:
        try:
            return await scan
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("tap of %s: a defect of vramtap ends it", self.target.url)
            self._close("internal error; see the log")
            return None
        finally:
            self._scanning = None
            self._scan_ended()

    def _scan_ended(self) -> None:
        self._scheduler.scan_ended(self._loop.time())
        self._schedule()

    async def _scan(self, answer: PageRuns | AllDirty) -> VramtapError | None:
        """Bring the screen up to date; returns what failed."""
        try:
            armed = self._waker is not None and self._waker.fd is not None
            await self._pipeline.scan(answer, self._scheduler.began_s, armed=armed)
        except VramtapError as error:
            self._stop_waiting()
            self._pipeline.give_back(answer)
            return await self._failed(error)
        self._last_warning = None
        return None

    async def _failed(self, error: Exception) -> VramtapError:
        """Deal with a failed scan: close the tap if the target is gone, else scan again later.

        Raises:
            Exception: the error itself, if it is a defect.
        """
        if not isinstance(error, VramtapError):
            raise error
        self.stats.failures += 1
        if isinstance(error, TargetGone):
            if self._gone is not None:
                await asyncio.wait([self._gone], timeout=self._timings.gone_grace_s)
            self._close(str(error))
            return error
        # A scan is repeated up to twenty times a second. An error of the same kind is logged once.
        warning = type(error), error.operation
        if warning != self._last_warning:
            log.warning("%s: %s; trying again", self.target.url, error, extra={"target": self.target.url})
        self._last_warning = warning
        self._scheduler.scan_failed(self._loop.time())
        return error
