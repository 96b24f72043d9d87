"""Pipeline: one scan of a tap, from the tracker's answer to damage."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from vramtap.display.page_spans import pages_of
from vramtap.errors import TimedOut
from vramtap.pages import PageRuns
from vramtap.tap.mode_clock import ModeClock
from vramtap.trackers.base import AllDirty, Reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from vramtap.display.damage import Damage
    from vramtap.display.mode import Mode
    from vramtap.display.screen import Screen
    from vramtap.tap.stats import TapStats
    from vramtap.tap.timings import TapTimings
    from vramtap.targets.base import Target
    from vramtap.trackers.base import Tracker

LEGACY_PAGES: Final = 64
"""Pages that a VGA's text and planar modes draw in: four planes of 64 KiB at the start of its video RAM."""

log: logging.Logger = logging.getLogger(__name__)


class Pipeline:
    """Carries page runs from the tracker to the screen, and the screen's damage on.

    The order of the steps keeps the rule that a write is never missed: the tracker clears its log first, the
    screen reads pixels after that.

    Args:
        target: Attached.
        tracker: Started on the target's extent.
        screen: Copy of the target's pixels.
        stats: Counters.
        publish: Takes the damage of each step.
        clock: The event loop's time, seconds.
        timings: Intervals.
    """

    def __init__(
        self,
        target: Target,
        tracker: Tracker,
        screen: Screen,
        stats: TapStats,
        publish: Callable[[Damage], None],
        clock: Callable[[], float],
        timings: TapTimings,
    ) -> None:
        self._target = target
        self._tracker = tracker
        self._screen = screen
        self._stats = stats
        self._publish = publish
        self._clock = clock
        self._mode: Mode | None = None
        self._unread = True
        self.mode_clock: ModeClock = ModeClock(announced=target.announces_mode, timings=timings)

    @property
    def may_arm(self) -> bool:
        """Whether the screen shows what was reported, so that the tracker alone can say when that changes."""
        return not self._unread if self._mode is not None else self._target.announces_mode

    def collect(self) -> PageRuns | AllDirty:
        """Ask the tracker for dirty pages, and count the answer."""
        began_ns = time.perf_counter_ns()
        # A tracker that reads memory is asked about the scanout only, or about the pages that text and planar
        # modes draw in. Any other is asked about the whole extent: a write outside the scanout is the first
        # sign of a page flip.
        window = None
        if self._tracker.prefers_window:
            legacy = 0, min(LEGACY_PAGES, self._target.extent.pages)
            window = legacy if self._mode is None else self._mode.window
        answer = self._tracker.collect(window)
        self._stats.polled(answer, time.perf_counter_ns() - began_ns)
        return answer

    def has_work(self, answer: PageRuns | AllDirty, now_s: float) -> bool:
        """Whether `scan` has anything to do after this answer."""
        unread = self._unread and self._mode is not None
        return bool(answer) or unread or now_s >= self.mode_clock.due_s

    async def first_scan(self, now_s: float) -> None:
        """Take the first picture.

        Raises:
            VramtapError: the target could not be read.
        """
        await self._read_mode(now_s, active=True, armed=False)
        answer = self.collect()
        if self._mode is None:
            await self._snapshot()
        else:
            self._read(answer)

    async def scan(self, answer: PageRuns | AllDirty, now_s: float, *, armed: bool) -> None:
        """Bring the screen up to date.

        Args:
            answer: What the tracker reported.
            now_s: When the scan began.
            armed: Whether only the mode clock made the tap work.

        Raises:
            VramtapError: the target could not be read; the caller reports the pages again by `give_back`.
        """
        active = bool(answer)
        # Pixels first: to read the mode keeps QEMU's main loop busy for a while. A guest that flips pages is
        # the exception, because it writes where its scanout is not.
        flipping = self.mode_clock.flipping(now_s)
        early = active and self._mode is not None and not self._unread and not flipping
        if early:
            self._read(answer)
        changed = False
        if self.mode_clock.due(now_s, active=active):
            changed = await self._read_mode(now_s, active=active, armed=armed)
        if active:
            self.mode_clock.pages_written(now_s)
        if self._mode is None:
            await self._snapshot()
        elif self._unread:
            # The scanout is now another part of the extent. A tracker that keeps a copy must take it first.
            if self._tracker.prefers_window:
                self.collect()
            self._read(AllDirty(Reason.FIRST))
        elif changed or (active and not early):
            self._read(answer)

    def give_back(self, answer: PageRuns | AllDirty) -> None:
        """Return pages to the tracker that a failed scan could not read. No waker may be active."""
        self._tracker.restore(self._runs(answer))

    def _runs(self, answer: PageRuns | AllDirty) -> PageRuns:
        return PageRuns.full(self._target.extent.pages) if isinstance(answer, AllDirty) else answer

    def _read(self, answer: PageRuns | AllDirty) -> None:
        damage = self._screen.refresh(self._tracker.read_from, self._runs(answer))
        mode = self._screen.mode
        if self._tracker.wants_feedback and mode is not None:
            self._tracker.feedback(pages_of(damage.rects, mode))
        self._unread = False
        self._stats.bytes_read = self._target.extent.space.bytes_read
        self._publish(damage)

    async def _read_mode(self, now_s: float, *, active: bool, armed: bool) -> bool:
        """Read the target's mode; returns whether the mode or its palette is another."""
        self._stats.mode_reads += 1
        # The target may announce a change that this answer does not include; the mode stays due then.
        self.mode_clock.reading()
        try:
            mode = await self._target.mode()
        except TimedOut as error:
            # The change that made the mode due may still be unknown, and may not be announced again.
            log.warning("%s", error, extra={"target": self._target.url})
            self.mode_clock.read_timed_out(self._clock())
            return False
        except BaseException:
            self.mode_clock.hurry()
            raise
        read_s = self._clock()
        self.mode_clock.mode_read(read_s, linear=mode is not None, active=active, armed=armed)
        if mode == self._mode:
            return False
        log.info("%s: mode %s", self._target.url, mode or "not linear", extra={"target": self._target.url})
        if mode is not None and self._mode is not None:
            self.mode_clock.flipped(read_s)
        if mode is not None:
            self._unread |= self._screen.set_mode(mode) or self._mode is None
        self._mode = mode
        return True

    async def _snapshot(self) -> None:
        self._stats.snapshots += 1
        self._publish(self._screen.replace(await self._target.snapshot()))
