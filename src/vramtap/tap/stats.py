"""TapStats: counters of a tap, for people, pages and scripts."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from vramtap.trackers.base import AllDirty

if TYPE_CHECKING:
    from vramtap.pages import PageRuns

RECENT: Final = 64
"""Polls that the reported scan time is the median of: about a second of them."""


@dataclass(slots=True)
class TapStats:
    """Totals since the tap was opened, except where a field says otherwise.

    Args:
        tracker: Name of the tracker in use.
        tracker_why: Reason for this tracker, in one clause.
        polls: Number of polls of the tracker.
        collects: Number of polls that returned dirty pages or `AllDirty`.
        dirty_pages: Number of pages that the tracker named.
        updates: Number of scans that changed pixels.
        bytes_read: Bytes copied from the target's memory.
        mode_reads: Number of reads of the target's mode.
        snapshots: Number of pictures taken by other means than memory.
        failures: Number of scans that failed and were repeated.
        all_dirty: Number of `AllDirty` answers, by reason.
        stopped_us: Time for which attaching stopped one thread of the target, microseconds.
        recent_ns: Durations of the last polls, nanoseconds.
    """

    tracker: str = ""
    tracker_why: str = ""
    polls: int = 0
    collects: int = 0
    dirty_pages: int = 0
    updates: int = 0
    bytes_read: int = 0
    mode_reads: int = 0
    snapshots: int = 0
    failures: int = 0
    all_dirty: Counter[str] = field(default_factory=Counter)
    stopped_us: float = 0.0
    recent_ns: deque[int] = field(default_factory=lambda: deque(maxlen=RECENT))

    def polled(self, answer: PageRuns | AllDirty, took_ns: int) -> None:
        """Count one poll of the tracker.

        Args:
            answer: What the tracker returned.
            took_ns: Duration of the poll, nanoseconds.
        """
        self.polls += 1
        self.recent_ns.append(took_ns)
        if isinstance(answer, AllDirty):
            self.collects += 1
            self.all_dirty[answer.reason.value] += 1
        elif answer:
            self.collects += 1
            self.dirty_pages += answer.count

    @property
    def scan_us(self) -> float:
        """Median duration of the recent polls, microseconds."""
        ordered = sorted(self.recent_ns)
        return ordered[len(ordered) // 2] / 1000 if ordered else 0.0

    def as_dict(self) -> dict[str, object]:
        """Return the counters as JSON values."""
        named = {name: getattr(self, name) for name in self.__slots__ if name != "recent_ns"}
        return {**named, "all_dirty": dict(self.all_dirty), "scan_us": round(self.scan_us, 1)}
