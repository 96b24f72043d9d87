"""Figures of many shots, and what of them stands in a table."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Spread:
    """How figures are spread; in their own unit.

    Args:
        count: How many there are.
        median: Half are at most this.
        p95: 95 of 100 are at most this.
        p99: 99 of 100 are at most this; of fewer than 100 it is the largest.
        least: The smallest.
        most: The largest.
    """

    count: int
    median: float
    p95: float
    p99: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Of these figures.

        Raises:
            ValueError: there are none.
        """
        if not values:
            raise ValueError("the spread of no figures")
        ordered = sorted(values)
        median, p95, p99 = (ranked(ordered, share) for share in (0.5, 0.95, 0.99))
        return cls(len(ordered), median, p95, p99, ordered[0], ordered[-1])


def ranked(ordered: Sequence[float], share: float) -> float:
    """The smallest of these figures that so large a share of them does not exceed (the nearest rank).

    Nothing is interpolated: what is printed was measured.

    Args:
        ordered: Ascending, at least one.
        share: More than 0, at most 1.
    """
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table.

    Raises:
        ValueError: a row has not as many cells as the head.
    """
    lines = [_row(head), f"|{'---|' * len(head)}"]
    for row in rows:
        if len(row) != len(head):
            raise ValueError(f"{len(row)} cells under {len(head)} heads: {row}")
        lines.append(_row(row))
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
