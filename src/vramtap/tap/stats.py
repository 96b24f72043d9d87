"""TapStats: what a tap has done so far, for people, pages and scripts."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Final

RECENT: Final = 64
"""Looks that the reported scan time is the median of: about a second of polling."""


@dataclass(slots=True)
class TapStats:
    """Totals since the tap was opened, except where a field says otherwise.

    Args:
        tracker: Name of the tracker in use.
        tracker_why: Why it is this one.
        polls: How often the tracker was asked.
        collects: How often it named pages or could not vouch.
        dirty_pages: Pages it named.
        updates: How often pixels really changed.
        bytes_read: Bytes of the target's memory copied.
        mode_reads: How often the geometry was asked for.
        snapshots: Pictures taken by other means than memory.
        failures: Looks that failed and were done again.
        everything: How often the tracker could not vouch, by reason.
        stopped_us: How long a thread of the target stood still at attach, microseconds.
        recent_ns: The last looks at the log, nanoseconds.
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
    everything: Counter[str] = field(default_factory=Counter)
    stopped_us: float = 0.0
    recent_ns: deque[int] = field(default_factory=lambda: deque(maxlen=RECENT))

    @property
    def scan_us(self) -> float:
        """Median of the recent looks at the log, microseconds."""
        ordered = sorted(self.recent_ns)
        return ordered[len(ordered) // 2] / 1000 if ordered else 0.0

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        named = {name: getattr(self, name) for name in self.__slots__ if name != "recent_ns"}
        return {**named, "everything": dict(self.everything), "scan_us": round(self.scan_us, 1)}
