"""Tap: one target being watched, and the one place where target, tracker and screen meet."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from vramtap.concurrency import run_in_thread
from vramtap.display.page_spans import pages_of
from vramtap.display.screen import Screen
from vramtap.errors import TargetGone, TimedOut, VramtapError
from vramtap.pages import NO_PAGES, PageRuns
from vramtap.tap.mode_clock import ModeClock
from vramtap.tap.stats import TapStats
from vramtap.tap.viewer import Viewer, Watcher
from vramtap.trackers.base import AllDirty, Reason, Tracker, Waker
from vramtap.trackers.choose import Choice, TrackerOptions, choose

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterator
    from types import TracebackType

    from vramtap.display.damage import Damage
    from vramtap.display.mode import Mode
    from vramtap.targets.base import Target

INTERVAL_S: Final = 1 / 60
"""Between two looks at the log while a viewer waits: half of it is the mean latency."""
IDLE_AFTER_S: Final = 1.0
"""After the last change: from then on the tracker wakes us, where it can. Carets and clocks write once a
second or oftener, and are not worth the change of hands; a tracker may be less patient."""
EAGER_S: Final = 0.001
"""Between two looks when we were woken and have seen nothing yet: whoever was held by the write that woke us
may get a processor after us, and has still to make it. It does within a millisecond or two (measured)."""
EAGER_LOOKS: Final = 10
"""So often; from then on at the interval: what was written changes nothing."""
RETRY_S: Final = 0.05
"""After a look that failed: the target may be on its way out, and its end is about to be seen."""
MAX_DUTY: Final = 0.5
"""Share of the time that looking may take: a tracker that reads everything is asked less often."""
LEGACY_PAGES: Final = 64
"""Pages a VGA's text and planar modes are drawn in: four planes of 64 KiB, first in its video RAM."""
GONE_GRACE_S: Final = 1.0
"""How long the target's own account of its end is waited for, once its memory has failed."""

V = TypeVar("V", bound=Viewer)

log = logging.getLogger(__name__)


class Tap:
    """One target being watched: target, tracker and screen, giving damage to viewers.

    An async context manager, of one event loop. Nothing is polled while no viewer waits in `changed`.

    Args:
        target: Not yet attached; attached and released with the tap.
        tracker: Name of the tracker, or `auto`.
        interval_s: Between two looks at the log, seconds.
        options: Of the user, for the tracker.
    """

    def __init__(
        self,
        target: Target,
        tracker: str = "auto",
        interval_s: float = INTERVAL_S,
        options: TrackerOptions | None = None,
    ) -> None:
        self.target = target
        self.screen = Screen()
        self.stats = TapStats()
        self._ended = asyncio.Event()
        self.closed: str | None = None
        """What ended the tap, in one clause; None while it runs."""
        self._tracker_name = tracker
        self._wishes = options
        self._tracker: Tracker
        self._interval_s = interval_s
        self._viewers: set[Viewer] = set()
        self._waiting = 0
        self._timer: asyncio.TimerHandle | None = None
        self._waker: Waker | None = None
        self._looking: asyncio.Task[VramtapError | None] | None = None
        self._gone: asyncio.Task[None] | None = None
        self._mode: Mode | None = None
        self._unread = True
        self._geometry: ModeClock
        self._began_s = self._not_before_s = self._active_s = float("-inf")
        self._eager = 0
        self._complaint: tuple[type[VramtapError], str] | None = None

    async def __aenter__(self) -> Self:
        """Attach, arm the tracker and take the first picture.

        Raises:
            AttachError: the target cannot be tapped.
            VramtapError: the tracker asked for cannot watch it.
        """
        self._loop = asyncio.get_running_loop()
        await self.target.__aenter__()
        self._geometry = ModeClock(announced=self.target.announces_mode)
        try:
            choice = await self._choose()
            self._tracker = choice.tracker
            # Before the first look: what happens from then on is told.
            self.target.on_activity = self._nudge
            self.stats.tracker, self.stats.tracker_why = choice.tracker.name, choice.why
            self.stats.stopped_us = getattr(choice.tracker, "stopped_us", 0.0)
            try:
                await self._first_look()
            except BaseException:
                self._tracker.stop()
                raise
        except BaseException as error:
            await self.target.__aexit__(type(error), error, error.__traceback__)
            raise
        self._gone = asyncio.create_task(self._watch_target())
        return self

    async def _choose(self) -> Choice:
        def work() -> Choice:
            allow = self.target.tolerates_injection
            return choose(self._tracker_name, self.target.extent, allow_filtered=allow, options=self._wishes)

        return await run_in_thread(work, lambda choice: choice.tracker.stop())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop looking, disarm, and release the target."""
        self._close("the tap was closed")
        tasks: list[asyncio.Task[Any]] = [task for task in (self._looking, self._gone) if task is not None]
        for task in tasks:
            task.cancel()
        try:
            if tasks:
                await asyncio.wait(tasks)
        finally:
            self._tracker.stop()
            await self.target.__aexit__(kind, error, trace)

    # Who looks

    def viewer(self, name: str) -> Viewer:
        """A new viewer, everything pending for it; a context manager that ends it."""
        return self._join(Viewer(self, name))

    async def changes(self) -> AsyncIterator[Damage]:
        """Damage as it happens, merged while the caller is busy with the last; ends with the target.

        Yields:
            Never empty. Its rectangles are exact as long as the caller keeps up, else rounded outward.
        """
        with self._join(Watcher(self, "changes")) as watcher:
            while True:
                try:
                    damage = await watcher.next()
                except TargetGone:
                    return
                yield damage

    async def refresh(self) -> None:
        """Look once, now: afterwards the screen shows what the target showed at the call, or later.

        Raises:
            TargetGone: the target has ended.
            VramtapError: looking failed; it is tried again while a viewer waits, or by another call.
        """
        error = await self._look_once(geometry=True)
        if error is not None:
            raise error

    async def _look_once(self, *, geometry: bool) -> VramtapError | None:
        """Look once, at the geometry too or only if that is due; returns what went wrong."""
        self.check()
        # Not only once: another caller that waited for the same look may be first to begin the next.
        while self._looking is not None:
            await asyncio.wait([self._looking])
        self.check()
        self._stop_waiting()
        if geometry:
            self._geometry.hurry()
        self._look_now()
        looking = self._looking
        if looking is None:
            return None
        await asyncio.wait([looking])
        self.check()
        error = looking.result()
        if error is None and self._tracker.has_more:
            return await self._look_once(geometry=False)
        return error

    async def ended(self) -> str:
        """Wait until the target has ended or the tap is closed.

        Returns:
            What happened, in one clause.
        """
        await self._ended.wait()
        return self.closed or ""

    async def fresh(self) -> None:
        """Make sure that the screen is hardly older than an interval of looking.

        Raises:
            TargetGone: the target has ended.
        """
        if self._waker is not None or self._looking is not None:
            return
        if self._loop.time() > max(self._began_s + 2 * self._interval_s, self._not_before_s):
            await self._look_once(geometry=False)

    def check(self) -> None:
        """Raise if the tap has ended.

        Raises:
            TargetGone: it has; says why.
        """
        if self.closed is not None:
            raise TargetGone("tap", self.target.url, self.closed)

    @contextlib.contextmanager
    def wanted(self) -> Iterator[None]:
        """While inside, somebody waits for damage: the tap looks at its interval."""
        self._waiting += 1
        self._schedule()
        try:
            yield
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._stop_waiting()

    def forget(self, viewer: Viewer) -> None:
        """A viewer has left."""
        self._viewers.discard(viewer)

    @property
    def viewers(self) -> int:
        """How many there are."""
        return len(self._viewers)

    def _join(self, viewer: V) -> V:
        self._viewers.add(viewer)
        return viewer

    # When to look

    def _schedule(self) -> None:
        """Arrange for the next look, if anybody waits and none is arranged for or under way."""
        if self._timer is not None or self._looking is not None:
            return
        if not self._waiting or self.closed is not None:
            return
        if self._eager or self._tracker.has_more:
            due = self._began_s + EAGER_S
        else:
            due = max(self._began_s + self._interval_s, self._not_before_s)
        settled = not self._unread if self._mode is not None else self.target.announces_mode
        if (
            self._waker is None
            and settled
            and due - self._active_s > min(IDLE_AFTER_S, self._tracker.idle_after_s)
        ):
            self._waker = self._tracker.wake(self._woken_in_thread)
            if self._waker is not None and self._waker.fd is not None:
                self._loop.add_reader(self._waker.fd, self._woken)
        if self._waker is not None:
            due = max(due, self._geometry.due_s)
        if due != float("inf"):
            self._timer = self._loop.call_at(due, self._tick)

    def _stop_waiting(self) -> None:
        if self._waker is not None:
            if self._waker.fd is not None:
                self._loop.remove_reader(self._waker.fd)
            self._waker.cancel()
            self._waker = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _woken_in_thread(self) -> None:
        self._loop.call_soon_threadsafe(self._woken)

    def _woken(self) -> None:
        if self._waker is None:
            return
        # Who calls back has already seen what was written.
        self._eager = 0 if self._waker.fd is None else EAGER_LOOKS
        self._stop_waiting()
        self._active_s = self._loop.time()
        if self._looking is None:
            self._look_now()

    def _tick(self) -> None:
        self._timer = None
        if not self._waiting or self._looking is not None or self.closed is not None:
            return
        if self._waker is None:
            self._look_now()
        else:
            # Nothing was written; only the geometry is due.
            self._began_s = self._loop.time()
            self._looking = asyncio.create_task(self._supervise(self._look(NO_PAGES)))

    def _look_now(self) -> None:
        """Ask the tracker; only if there is something to do, start a task that does it."""
        self._began_s = self._loop.time()
        try:
            answer = self._collect()
        except Exception as error:
            self._looking = asyncio.create_task(self._supervise(self._failed(error)))
            return
        unread = self._unread and self._mode is not None
        if answer or unread or self._began_s >= self._geometry.due_s:
            self._looking = asyncio.create_task(self._supervise(self._look(answer)))
        else:
            self._rest()

    async def _supervise(self, look: Coroutine[object, None, VramtapError | None]) -> VramtapError | None:
        try:
            return await look
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("tap of %s: a defect of vramtap ends it", self.target.url)
            self._close("internal error; see the log")
            return None
        finally:
            self._looking = None
            self._rest()

    def _rest(self) -> None:
        """A look is over: arrange for the next, the later the longer this one took."""
        took_s = self._loop.time() - self._began_s
        self._eager = max(0, self._eager - 1)
        self._not_before_s = max(self._not_before_s, self._began_s + took_s / MAX_DUTY)
        self._schedule()

    def _nudge(self) -> None:
        """The target says that something happened: look at the geometry at once."""
        self._geometry.hurry()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._schedule()

    # What a look is

    def _collect(self) -> PageRuns | AllDirty:
        began_ns = time.perf_counter_ns()
        # Where asking costs reading, only the scanout is asked about, or where text and planar modes draw.
        # Elsewhere the whole extent is: what is written beside the scanout is the first sign of a page flip.
        window = None
        if self._tracker.prefers_window:
            legacy = 0, min(LEGACY_PAGES, self.target.extent.pages)
            window = legacy if self._mode is None else self._mode.window
        answer = self._tracker.collect(window)
        self.stats.polls += 1
        self.stats.recent_ns.append(time.perf_counter_ns() - began_ns)
        if isinstance(answer, AllDirty):
            self.stats.collects += 1
            self.stats.everything[answer.reason.value] += 1
        elif answer:
            self.stats.collects += 1
            self.stats.dirty_pages += answer.count
        return answer

    async def _first_look(self) -> None:
        self._began_s = self._loop.time()
        await self._reread_mode(active=True)
        answer = self._collect()
        if self._mode is None:
            await self._snapshot()
        else:
            self._read(answer)

    async def _look(self, answer: PageRuns | AllDirty) -> VramtapError | None:
        """Bring the screen up to date with what the tracker said; returns what went wrong."""
        now_s, active = self._began_s, bool(answer)
        try:
            # The pixels first: asking for the geometry takes QEMU's main loop a while. Only a guest that
            # flips pages is asked before, since what it writes is not what it shows.
            flipping = self._geometry.flipping(now_s)
            early = active and self._mode is not None and not self._unread and not flipping
            if early:
                self._read(answer)
            changed = False
            if self._geometry.due(now_s, active=active):
                changed = await self._reread_mode(active)
            if active:
                self._geometry.written(now_s)
            if self._mode is None:
                await self._snapshot()
            elif self._unread:
                # Another part of the extent is shown now; a tracker with a copy must take it first.
                if self._tracker.prefers_window:
                    self._collect()
                self._read(AllDirty(Reason.FIRST))
            elif changed or (active and not early):
                self._read(answer)
        except VramtapError as error:
            self._stop_waiting()
            self._tracker.restore(self._runs(answer))
            return await self._failed(error)
        self._complaint = None
        return None

    def _runs(self, answer: PageRuns | AllDirty) -> PageRuns:
        return PageRuns.full(self.target.extent.pages) if isinstance(answer, AllDirty) else answer

    def _read(self, answer: PageRuns | AllDirty) -> None:
        damage = self.screen.refresh(self._tracker.read_from, self._runs(answer))
        mode = self.screen.mode
        if self._tracker.wants_feedback and mode is not None:
            self._tracker.feedback(pages_of(damage.rects, mode))
        self._unread = False
        self.stats.bytes_read = self.target.extent.space.bytes_read
        self._publish(damage)

    async def _reread_mode(self, active: bool) -> bool:
        """Ask the target for its geometry; returns whether it is another (its palette, too)."""
        self.stats.mode_reads += 1
        # A nudge from here on may be about what the answer does not know yet: it stays due then.
        self._geometry.ask()
        try:
            mode = await self.target.mode()
        except TimedOut as error:
            log.warning("%s", error, extra={"target": self.target.url})
            mode = self._mode
        except BaseException:
            self._geometry.hurry()
            raise
        now_s = self._loop.time()
        armed = self._waker is not None and self._waker.fd is not None
        self._geometry.answered(now_s, linear=mode is not None, active=active, armed=armed)
        if mode == self._mode:
            return False
        log.info("%s: mode %s", self.target.url, mode or "not linear", extra={"target": self.target.url})
        if mode is not None and self._mode is not None:
            self._geometry.flipped(now_s)
        if mode is not None:
            self._unread |= self.screen.set_mode(mode) or self._mode is None
        self._mode = mode
        return True

    async def _snapshot(self) -> None:
        self.stats.snapshots += 1
        self._publish(self.screen.replace(await self.target.snapshot()))

    def _publish(self, damage: Damage) -> None:
        if damage:
            self._eager = 0
            self._active_s = self._began_s
            self.stats.updates += 1
            for viewer in self._viewers:
                viewer.add(damage)

    # How it ends

    async def _failed(self, error: Exception) -> VramtapError:
        """A look failed: the target's end comes through `gone`; anything else is tried again.

        Raises:
            Exception: the error, if it is none that is raised on purpose.
        """
        if not isinstance(error, VramtapError):
            raise error
        self.stats.failures += 1
        self._eager = 0
        if isinstance(error, TargetGone):
            if self._gone is not None:
                await asyncio.wait([self._gone], timeout=GONE_GRACE_S)
            self._close(str(error))
            return error
        # Tried again twenty times a second: what is said each time, in other numbers, is said once.
        complaint = type(error), error.operation
        if complaint != self._complaint:
            log.warning("%s: %s; trying again", self.target.url, error, extra={"target": self.target.url})
        self._complaint = complaint
        self._not_before_s = self._loop.time() + RETRY_S
        return error

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
