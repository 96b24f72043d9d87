"""Statistics of repeated measurements, and Markdown tables."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Spread:
    """Distribution of figures, in the figures' own unit.

    Args:
        count: Number of figures.
        median: Half of the figures are at most this.
        p95: 95 % of the figures are at most this.
        p99: 99 % of the figures are at most this; with fewer than 100 figures, the largest.
        least: The smallest figure.
        most: The largest figure.
    """

    count: int
    median: float
    p95: float
    p99: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Return the spread of figures.

        Raises:
            ValueError: There are no figures.
        """
        if not values:
            raise ValueError("the spread of no figures")
        ordered = sorted(values)
        median, p95, p99 = (ranked(ordered, share) for share in (0.5, 0.95, 0.99))
        return cls(len(ordered), median, p95, p99, ordered[0], ordered[-1])


def ranked(ordered: Sequence[float], share: float) -> float:
    """Return the smallest figure that at least this share of the figures does not exceed (nearest rank).

    Nothing is interpolated, so a printed figure is one that was measured.

    Args:
        ordered: Ascending, at least one.
        share: More than 0, at most 1.
    """
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table.

    Raises:
        ValueError: A row does not have as many cells as the head.
    """
    lines = [_row(head), f"|{'---|' * len(head)}"]
    for row in rows:
        if len(row) != len(head):
            raise ValueError(f"{len(row)} cells under {len(head)} heads: {row}")
        lines.append(_row(row))
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
