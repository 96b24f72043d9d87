"""RescanTimer: when to look at all pages because something may write past the log."""

from __future__ import annotations

from typing import Final

SOONEST_S: Final = 0.25
"""Between two such looks while they find something that the log did not know."""
LATEST_S: Final = 1.0
"""And while they do not: how late such a write may be shown."""


class RescanTimer:
    """Says when the next look is due; rarer while it finds nothing. Seconds of whoever's clock."""

    def __init__(self) -> None:
        self._interval_s = SOONEST_S
        self._next_s = float("-inf")

    def due(self, now_s: float) -> bool:
        """Whether a look that is wanted may be made now."""
        return now_s >= self._next_s

    def made(self, now_s: float) -> None:
        """It is made now."""
        self._next_s = now_s + self._interval_s

    def found(self, anything: bool) -> None:
        """What the look that was made last has found, beside what the log knew."""
        self._next_s -= self._interval_s
        self._interval_s = SOONEST_S if anything else min(2 * self._interval_s, LATEST_S)
        self._next_s += self._interval_s
