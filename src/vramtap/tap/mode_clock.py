"""ModeClock: decides when to re-read a target's mode. Pure: the caller supplies the time."""

from __future__ import annotations

from vramtap.tap.timings import DEFAULT_TIMINGS, TapTimings


class ModeClock:
    """The times at which a target's mode is read again.

    Args:
        announced: Whether the target announces a new mode. If it does, the mode is not read at a rate.
        timings: Intervals.
    """

    def __init__(self, *, announced: bool, timings: TapTimings = DEFAULT_TIMINGS) -> None:
        self.due_s: float = float("-inf")
        """When to read the mode although nothing is written."""
        self._announced = announced
        self._timings = timings
        self._read_s = self._flipping_until_s = float("-inf")
        self._armed_s = timings.mode_idle_s

    def hurry(self) -> None:
        """Make the mode due now: something happened."""
        self.due_s = float("-inf")

    def reading(self) -> None:
        """Note that the mode is being read. It becomes due again only if something happens meanwhile."""
        self.due_s = float("inf")

    def flipping(self, now_s: float) -> bool:
        """Whether a page flip was seen within the last `flipping_s`."""
        return now_s < self._flipping_until_s

    def due(self, now_s: float, *, active: bool) -> bool:
        """Whether to read the mode now.

        Args:
            now_s: Time.
            active: Pages were written.
        """
        if now_s >= self.due_s:
            return True
        return active and (self.flipping(now_s) or now_s - self._read_s >= self._timings.mode_busy_s)

    def pages_written(self, now_s: float) -> None:
        """Note that pages were written. The mode is due once more: the guest's last act may be the flip."""
        self.due_s = min(self.due_s, now_s + self._timings.mode_busy_s)

    def mode_read(self, now_s: float, *, linear: bool, active: bool, armed: bool) -> None:
        """Note that the mode was read.

        Args:
            now_s: Time.
            linear: Whether there is a linear framebuffer.
            active: Pages were written.
            armed: Whether nothing but this clock makes the tap work.
        """
        timings = self._timings
        self._read_s = now_s
        self._armed_s = min(2 * self._armed_s, timings.mode_armed_s) if armed else timings.mode_idle_s
        if linear and active:
            rest_s = timings.mode_busy_s
        elif self._announced:
            rest_s = float("inf")
        else:
            rest_s = self._armed_s if linear else timings.snapshot_idle_s
        self.due_s = min(self.due_s, now_s + rest_s)

    def read_timed_out(self, now_s: float) -> None:
        """Note that the target did not say its mode in time. It is read again after `mode_idle_s`."""
        self._read_s = now_s
        self.due_s = min(self.due_s, now_s + self._timings.mode_idle_s)

    def flipped(self, now_s: float) -> None:
        """Note a page flip: the scanout shows another part of the extent, or shows it in another way."""
        self._flipping_until_s = now_s + self._timings.flipping_s
