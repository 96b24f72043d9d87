"""RescanTimer: decides when to report all pages because something may write without a log."""

from __future__ import annotations

from typing import Final

MIN_INTERVAL_S: Final = 0.25
"""Time between two rescans while they find changes that the log did not have."""
MAX_INTERVAL_S: Final = 1.0
"""Time between two rescans while they find none: the longest delay of an unlogged write."""


class RescanTimer:
    """Says when a rescan is due; less often while rescans find nothing. The caller supplies the time."""

    def __init__(self) -> None:
        self._interval_s = MIN_INTERVAL_S
        self._next_s = float("-inf")

    def due(self, now_s: float) -> bool:
        """Return whether a rescan is allowed now."""
        return now_s >= self._next_s

    def begin(self, now_s: float) -> None:
        """Note that a rescan begins."""
        self._next_s = now_s + self._interval_s

    def ended(self, *, found_changes: bool) -> None:
        """Note whether the last rescan found changes that the log did not have."""
        self._next_s -= self._interval_s
        self._interval_s = MIN_INTERVAL_S if found_changes else min(2 * self._interval_s, MAX_INTERVAL_S)
        self._next_s += self._interval_s
