"""Costs: what following writes costs on one target, in microseconds."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final, Self

from vramtap.errors import VramtapError

if TYPE_CHECKING:
    from collections.abc import Mapping

LONGEST_US: Final = 60e6
"""No single thing that is charged takes longer than this, a minute: what says so is no measurement."""
HEAVIEST_WEIGHT: Final = 1e6
"""Of the guest's time against ours: beyond it, one of the two is not counted at all."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Measured on one target, never assumed; microseconds but for the weight.

    Args:
        fault_us: Writer: its first write to a protected page.
        page_us: Us: read one page out of the target and compare it. More than 0.
        protect_us: Us: one call that reads the log and protects again what was hit (from outside: a remote
            TLB flush), whatever its size.
        look_us: Us: one look that finds nothing: waking up and one scan. More than 0.
        arm_us: Us: from the log to synchronous protection, without the compare that proves it (`page_us` for
            each page of the extent).
        hand_over_us: Us: from synchronous protection to the log, without the compare that closes the gap.
        held_us: Writer: how long the first write to an armed extent stands still.
        guest_cost_factor: A microsecond taken from the guest counts as so many of ours.

    Raises:
        VramtapError: a value is no such measurement.
    """

    fault_us: float
    page_us: float
    protect_us: float
    look_us: float
    arm_us: float
    hand_over_us: float
    held_us: float
    guest_cost_factor: float = 1.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value, name = getattr(self, field.name), field.name
            most = HEAVIEST_WEIGHT if name == "guest_cost_factor" else LONGEST_US
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            # False for what is not a number, and for NaN.
            if not number or not 0 <= value <= most:
                raise VramtapError("costs", name, f"{value!r}", f"give a number from 0 to {most:g}")
            if value == 0 and name in {"page_us", "look_us"}:
                raise VramtapError("costs", name, "0", "nothing is read for nothing: measure it")

    @classmethod
    def from_mapping(cls, values: Mapping[str, object]) -> Self:
        """Take what a file said.

        Args:
            values: By field name; `guest_cost_factor` may be left out.

        Raises:
            VramtapError: a field is missing, unknown, or no number.
        """
        known = {field.name for field in fields(cls)}
        strange = sorted(set(values) - known)
        missing = sorted(known - {"guest_cost_factor"} - set(values))
        if strange or missing:
            what = [f"unknown: {', '.join(strange)[:200]}"] if strange else []
            what += [f"missing: {', '.join(missing)}"] if missing else []
            raise VramtapError("costs", "fields", "; ".join(what), f"give {', '.join(sorted(known))}")
        return cls(**values)  # type: ignore[arg-type]  # __post_init__ refuses what is no number

    @property
    def fault_weighted_us(self) -> float:
        """A fault of the writer, in microseconds of ours."""
        return self.fault_us * self.guest_cost_factor

    def arming_us(self, pages: int) -> float:
        """Arming an extent of so many pages, with the compare that proves it."""
        return self.arm_us + self.page_us * pages

    def waking_us(self, pages: int) -> float:
        """The first write to it, and the compare that closes the gap."""
        return self.held_us * self.guest_cost_factor + self.hand_over_us + self.page_us * pages


REFERENCE: Final = Costs(
    fault_us=0.75,
    page_us=1.6,
    protect_us=200.0,
    look_us=60.0,
    arm_us=230.0,
    hand_over_us=260.0,
    held_us=150.0,
)
"""Of an Xvfb of 1080p tapped from outside on the machine this was written on (2 cores, x86-64, Linux 6.18),
medians: for tests, and for replaying a trace where its target no longer is. A page: 8 MB are read in 2.6 ms
and compared in 0.7. A look: 50 us to wake up, 9 to scan."""
