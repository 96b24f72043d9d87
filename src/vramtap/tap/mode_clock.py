"""When a target's geometry is to be asked for again: times alone, seconds of whoever's clock."""

from __future__ import annotations

from typing import Final

MODE_BUSY_S: Final = 0.1
"""Between two looks at the geometry while pages are written: a new mode is drawn into once it is set."""
MODE_IDLE_S: Final = 1.0
"""Between two looks at the geometry while nothing is written: how long a flip that draws nothing may wait."""
MODE_ARMED_S: Final = 300.0
"""Between two looks at the geometry of an armed target that does not announce it, at most; it begins with
`MODE_IDLE_S` and doubles. To ask QEMU wakes two processes, so that nothing would ever be quite still."""
FLIPPING_S: Final = 1.0
"""After a page flip the geometry is read every round for this long: flips come in series."""
SNAPSHOT_IDLE_S: Final = 0.5
"""Between two pictures by other means while nothing is written: a text cursor blinks without any write."""


class ModeClock:
    """Says when the geometry is due.

    Args:
        announced: Whether the target tells when it changes, so that it is not due by itself.
    """

    def __init__(self, *, announced: bool) -> None:
        self.due_s = float("-inf")
        """When to ask although nothing is written."""
        self._announced = announced
        self._read_s = self._flipping_until_s = float("-inf")
        self._armed_s = MODE_IDLE_S

    def hurry(self) -> None:
        """Something happened: it is due now."""
        self.due_s = float("-inf")

    def ask(self) -> None:
        """It is being asked for: due again only if something happens meanwhile."""
        self.due_s = float("inf")

    def flipping(self, now_s: float) -> bool:
        """Whether a page flip was seen a short while ago."""
        return now_s < self._flipping_until_s

    def due(self, now_s: float, *, active: bool) -> bool:
        """Whether to ask now.

        Args:
            now_s: The time.
            active: Pages were written.
        """
        if now_s >= self.due_s:
            return True
        return active and (self.flipping(now_s) or now_s - self._read_s >= MODE_BUSY_S)

    def written(self, now_s: float) -> None:
        """Pages were written: it is due once more when that is over."""
        # The last thing a guest does may be the flip.
        self.due_s = min(self.due_s, now_s + MODE_BUSY_S)

    def answered(self, now_s: float, *, linear: bool, active: bool, armed: bool) -> None:
        """It was asked for.

        Args:
            now_s: The time.
            linear: Whether there is a linear framebuffer.
            active: Pages were written.
            armed: Nothing else wakes us.
        """
        self._read_s = now_s
        self._armed_s = min(2 * self._armed_s, MODE_ARMED_S) if armed else MODE_IDLE_S
        if linear and active:
            rest_s = MODE_BUSY_S
        elif self._announced:
            rest_s = float("inf")
        else:
            rest_s = self._armed_s if linear else SNAPSHOT_IDLE_S
        self.due_s = min(self.due_s, now_s + rest_s)

    def flipped(self, now_s: float) -> None:
        """Another part of the extent is shown, or in another way."""
        self._flipping_until_s = now_s + FLIPPING_S
