"""Costs: what it costs to follow writes on one target, in microseconds."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final, Self

from vramtap.errors import VramtapError

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_COST_US: Final = 60e6
"""Highest cost that is accepted, one minute: a higher value is not a measurement."""
MAX_GUEST_COST_FACTOR: Final = 1e6
"""Highest weight of guest CPU time: beyond it vramtap's own time would not count at all."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Costs measured on one target, microseconds except for the factor.

    Args:
        fault_us: Writer: its first write to a protected page.
        page_us: vramtap: read one page of the target and compare it. More than 0.
        protect_us: vramtap: one call that reads the log and protects the written pages again, whatever their
            number (from another process: a remote TLB flush).
        scan_us: vramtap: one scan that finds nothing, wake-up included. More than 0.
        arm_us: vramtap: from the log to synchronous protection, without the compare that finds the writes in
            between (`page_us` for each page of the extent).
        hand_over_us: vramtap: from synchronous protection to the log, without the compare of the same kind.
        held_us: Writer: how long its first write to an armed extent is suspended.
        guest_cost_factor: Weight of guest CPU time relative to vramtap's.

    Raises:
        VramtapError: a value is out of range.
    """

    fault_us: float
    page_us: float
    protect_us: float
    scan_us: float
    arm_us: float
    hand_over_us: float
    held_us: float
    guest_cost_factor: float = 1.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value, name = getattr(self, field.name), field.name
            most = MAX_GUEST_COST_FACTOR if name == "guest_cost_factor" else MAX_COST_US
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            # NaN fails the comparison too.
            if not number or not 0 <= value <= most:
                raise VramtapError("costs", name, f"{value!r}", f"give a number from 0 to {most:g}")
            if value == 0 and name in {"page_us", "scan_us"}:
                raise VramtapError("costs", name, "0", "must be more than 0: give a measured value")

    @classmethod
    def from_mapping(cls, values: Mapping[str, object]) -> Self:
        """Return the costs read from a file.

        Args:
            values: Values by field name; `guest_cost_factor` is optional.

        Raises:
            VramtapError: a field is missing, unknown, or not a number.
        """
        known = {field.name for field in fields(cls)}
        strange = sorted(set(values) - known)
        missing = sorted(known - {"guest_cost_factor"} - set(values))
        if strange or missing:
            what = [f"unknown: {', '.join(strange)[:200]}"] if strange else []
            what += [f"missing: {', '.join(missing)}"] if missing else []
            raise VramtapError("costs", "fields", "; ".join(what), f"give {', '.join(sorted(known))}")
        return cls(**values)  # type: ignore[arg-type]  # __post_init__ rejects other types

    @property
    def fault_weighted_us(self) -> float:
        """A fault of the writer, in microseconds of vramtap's time."""
        return self.fault_us * self.guest_cost_factor

    def arming_us(self, pages: int) -> float:
        """Return the cost of arming an extent of `pages` pages, compare included."""
        return self.arm_us + self.page_us * pages

    def waking_us(self, pages: int) -> float:
        """Return the cost of the first write to an armed extent of `pages` pages, compare included."""
        return self.held_us * self.guest_cost_factor + self.hand_over_us + self.page_us * pages


REFERENCE: Final = Costs(
    fault_us=0.75,
    page_us=1.6,
    protect_us=200.0,
    scan_us=60.0,
    arm_us=230.0,
    hand_over_us=260.0,
    held_us=150.0,
)
"""Medians for an Xvfb of 1080p tapped from another process (2 cores, x86-64, Linux 6.18). For tests, and for
replaying a trace whose target is not there. A page: 8 MB are read in 2.6 ms and compared in 0.7 ms. A scan:
50 us
to wake up, 9 us to scan."""
