"""Scheduler: decides when a tap scans, when it sleeps and when it waits for the tracker to wake it.

Pure: the caller supplies the time, reports what happened, and carries the decisions out. A tap reports that a
viewer waits, that the waker fired, and that a scan began, ended or failed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from vramtap.tap.timings import TapTimings

_NEVER_S = float("inf")
_LONG_AGO_S = float("-inf")


@dataclass(frozen=True, slots=True)
class SleepUntil:
    """Nothing is to be done before this time.

    Args:
        due_s: Time of the caller's clock; infinity if only an event ends the sleep.
    """

    due_s: float


@dataclass(frozen=True, slots=True)
class HandToWaker:
    """Ask the tracker to wake the tap at the first write.

    Args:
        otherwise_s: When to scan if the tracker cannot wake the tap now.
    """

    otherwise_s: float


class Due(Enum):
    """What a sleep that has ended asks for."""

    NOTHING = auto()
    """No viewer waits, or a scan is under way."""
    SCAN = auto()
    """Ask the tracker for dirty pages."""
    MODE = auto()
    """The tracker is armed, so nothing was written; only the mode is due."""


Decision: TypeAlias = SleepUntil | HandToWaker


class Scheduler:
    """The schedule of one tap's scans.

    Args:
        timings: Intervals.
    """

    def __init__(self, timings: TapTimings) -> None:
        self._timings = timings
        self._waiting = 0
        self._scanning = False
        self._armed = False
        self._eager = 0
        self._not_before_s = _LONG_AGO_S
        self._changed_s = _LONG_AGO_S
        self.began_s: float = _LONG_AGO_S
        """When the last scan began."""

    @property
    def armed(self) -> bool:
        """Whether the tracker will wake the tap."""
        return self._armed

    @property
    def waited_for(self) -> bool:
        """Whether a viewer waits for damage."""
        return self._waiting > 0

    # What happened

    def viewer_waits(self) -> None:
        """Note that one more viewer waits for damage."""
        self._waiting += 1

    def viewer_served(self) -> None:
        """Note that one viewer less waits for damage."""
        self._waiting -= 1

    def handed_over(self) -> None:
        """Note that the tracker has promised to wake the tap."""
        self._armed = True

    def taken_back(self) -> None:
        """Note that the wait for the tracker was cancelled."""
        self._armed = False

    def woken(self, now_s: float, *, write_seen: bool) -> None:
        """Note that the tracker woke the tap.

        Args:
            now_s: Time.
            write_seen: Whether the tracker has already seen the write. If not, the writer may be held
                before its store, and the change may come a little later.
        """
        self._armed = False
        self._eager = 0 if write_seen else self._timings.eager_scans
        self._changed_s = now_s

    def scan_began(self, now_s: float) -> None:
        """Note that a scan began."""
        self.began_s = now_s
        self._scanning = True

    def pixels_changed(self) -> None:
        """Note that the scan under way changed pixels."""
        self._eager = 0
        self._changed_s = self.began_s

    def scan_failed(self, now_s: float) -> None:
        """Note that the scan under way failed; the next one waits `retry_s`."""
        self._eager = 0
        self._not_before_s = now_s + self._timings.retry_s

    def scan_ended(self, now_s: float) -> None:
        """Note that the scan is over. The next one comes the later, the longer this one took."""
        self._scanning = False
        self._eager = max(0, self._eager - 1)
        took_s = now_s - self.began_s
        self._not_before_s = max(self._not_before_s, self.began_s + took_s / self._timings.max_duty)

    # What to do

    def next(
        self, *, has_more: bool, may_arm: bool, tracker_idle_after_s: float, mode_due_s: float
    ) -> Decision:
        """Decide what to do until the next event.

        Args:
            has_more: The tracker's last answer was only the urgent part of what it has.
            may_arm: The screen shows what the tracker reported, so an armed tracker would miss nothing.
            tracker_idle_after_s: Idle time after which the tracker can be armed at a profit.
            mode_due_s: When the mode is due although nothing is written.
        """
        if not self._waiting or self._scanning:
            return SleepUntil(_NEVER_S)
        if self._eager or has_more:
            due_s = self.began_s + self._timings.eager_s
        else:
            due_s = max(self.began_s + self._timings.interval_s, self._not_before_s)
        if self._armed:
            return SleepUntil(max(due_s, mode_due_s))
        idle_after_s = min(self._timings.idle_after_s, tracker_idle_after_s)
        if may_arm and due_s - self._changed_s > idle_after_s:
            return HandToWaker(due_s)
        return SleepUntil(due_s)

    def due(self) -> Due:
        """Return what is due now that a sleep has ended."""
        if not self._waiting or self._scanning:
            return Due.NOTHING
        return Due.MODE if self._armed else Due.SCAN

    def is_stale(self, now_s: float) -> bool:
        """Whether the screen may lag by more than two intervals, so that a new viewer needs a scan first."""
        if self._armed or self._scanning:
            return False
        return now_s > max(self.began_s + 2 * self._timings.interval_s, self._not_before_s)
