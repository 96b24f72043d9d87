"""Trace: which pages of a scanout were written in which interval, as arrays; and its builder."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from vramtap.display.mode import MAX_DIMENSION, MAX_STRIDE_BYTES
from vramtap.errors import VramtapError
from vramtap.pages import PAGE_SIZE, PageRuns

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

MAX_PAGES: Final = MAX_DIMENSION * MAX_STRIDE_BYTES // PAGE_SIZE
"""Largest number of pages of a scanout: as many rows as a mode can have, with the longest stride."""
MAX_INTERVALS: Final = 1 << 23
"""Largest number of intervals of a trace: 38 hours at 60 a second."""
MAX_RUNS: Final = 1 << 26
"""Largest number of page runs of a trace: 512 MiB, eight for each interval of the longest trace."""
MAX_CELLS: Final = 1 << 28
"""Largest number of cells of `Trace.dirty`: 2 GiB. Nine hours at 60 intervals a second in 128 tiles."""


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """A record of which pages were written in which interval.

    A trace is immutable. It may come from a stranger, so the constructor checks all of it.

    Args:
        pages: Number of pages of the scanout's window.
        at_ns: Shape `(intervals,)`, int64: end of each interval, nanoseconds since the recording began.
            Strictly ascending, none negative.
        starts: Shape `(intervals + 1,)`, int64: `runs[starts[i]:starts[i + 1]]` are the page runs of interval
        i.
        runs: Shape `(n, 2)`, int32: half-open page runs `[first, last)`. None is empty; within an interval
            they are sorted and disjoint.
        meta: Facts about the recording, as text: `target`, `mode`, `hz`, `kernel`, `recorded`, ...

    Raises:
        ValueError: The arrays do not fit each other, or a value is out of bounds.
    """

    pages: int
    at_ns: NDArray[np.int64]
    starts: NDArray[np.int64]
    runs: NDArray[np.int32]
    meta: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, kind in (("at_ns", np.int64), ("starts", np.int64), ("runs", np.int32)):
            given = getattr(self, name)
            if given.dtype != kind:
                raise ValueError(f"{name} is {given.dtype}, not {np.dtype(kind)}")
            # A view, so that the caller's own array stays writeable.
            view = given.view()
            view.flags.writeable = False
            object.__setattr__(self, name, view)
        object.__setattr__(self, "meta", dict(self.meta))
        _check(self.pages, self.at_ns, self.starts, self.runs)

    @property
    def intervals(self) -> int:
        """Number of intervals."""
        return len(self.at_ns)

    @property
    def duration_s(self) -> float:
        """Time from the begin of the recording to the end of its last interval, seconds."""
        return float(self.at_ns[-1]) / 1e9 if self.intervals else 0.0

    @property
    def interval_s(self) -> float:
        """Median length of an interval, seconds; 0.0 without intervals."""
        return float(np.median(np.diff(self.at_ns, prepend=0))) / 1e9 if self.intervals else 0.0

    def written(self, interval: int) -> PageRuns:
        """Return the pages written in one interval."""
        return PageRuns(self.runs[self.starts[interval] : self.starts[interval + 1]].astype(np.int64))

    def tiles(self, tile_pages: int) -> NDArray[np.int64]:
        """Return the number of pages of each tile.

        Args:
            tile_pages: Pages of a tile; the last tile may have fewer.

        Returns:
            Shape `(tiles,)`, int64.

        Raises:
            ValueError: `tile_pages` is not positive.
        """
        if tile_pages <= 0:
            raise ValueError(f"tiles of {tile_pages} pages")
        sizes = np.full(-(-self.pages // tile_pages), tile_pages, dtype=np.int64)
        sizes[-1] = self.pages - tile_pages * (len(sizes) - 1)
        return sizes

    def dirty(self, tile_pages: int) -> NDArray[np.int64]:
        """Count the written pages of each tile in each interval.

        Args:
            tile_pages: Pages of a tile; the last tile may have fewer.

        Returns:
            Shape `(intervals, tiles)`, int64.

        Raises:
            ValueError: `tile_pages` is not positive.
            VramtapError: The trace has too many intervals for tiles of this size.
        """
        tiles = len(self.tiles(tile_pages))
        if self.intervals * tiles > MAX_CELLS:
            least = -(-self.pages * self.intervals // MAX_CELLS)
            raise VramtapError(
                "trace",
                f"{self.intervals} intervals in {tiles} tiles",
                f"more than {MAX_CELLS} cells",
                f"use tiles of about {least} pages or more, or a shorter trace",
            )
        counts = np.zeros((self.intervals, tiles + 1), dtype=np.int64)
        if not len(self.runs):
            return counts[:, :tiles]
        interval = np.repeat(np.arange(self.intervals), np.diff(self.starts))
        first, last = self.runs[:, 0].astype(np.int64), self.runs[:, 1].astype(np.int64)
        lower, upper = first // tile_pages, (last - 1) // tile_pages
        # The tiles that lie wholly inside a run: a step up at their begin, a step down at their end, then the
        # sum.
        wide = upper > lower + 1
        np.add.at(counts, (interval[wide], lower[wide] + 1), tile_pages)
        np.add.at(counts, (interval[wide], upper[wide]), -tile_pages)
        np.cumsum(counts, axis=1, out=counts)
        np.add.at(counts, (interval, lower), np.minimum(last, (lower + 1) * tile_pages) - first)
        split = upper > lower
        np.add.at(counts, (interval[split], upper[split]), last[split] - upper[split] * tile_pages)
        return counts[:, :tiles]

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Trace)
            and self.pages == other.pages
            and self.meta == other.meta
            and all(
                np.array_equal(mine, theirs)
                for mine, theirs in (
                    (self.at_ns, other.at_ns),
                    (self.starts, other.starts),
                    (self.runs, other.runs),
                )
            )
        )

    __hash__: ClassVar[None] = None  # type: ignore[assignment]  # arrays cannot be hashed


class TraceBuilder:
    """Builder of a trace: one call for each interval, eight bytes for each page run.

    Args:
        pages: Number of pages of the scanout's window.

    Raises:
        ValueError: `pages` is not in 1..`MAX_PAGES`.
    """

    def __init__(self, pages: int) -> None:
        if not 0 < pages <= MAX_PAGES:
            raise ValueError(f"a trace of {pages} pages, not 1..{MAX_PAGES}")
        self.pages = pages
        self._at_ns = array("q")
        self._starts = array("q", [0])
        self._runs = array("i")

    def __len__(self) -> int:
        return len(self._at_ns)

    @property
    def full(self) -> bool:
        """True if another interval might exceed a limit of a trace."""
        return len(self._at_ns) >= MAX_INTERVALS or len(self._runs) // 2 + self.pages > MAX_RUNS

    def add(self, at_ns: int, written: PageRuns) -> None:
        """Add an interval.

        Args:
            at_ns: End of the interval, nanoseconds since the recording began; later than the one before.
            written: Pages written, relative to the window's first page.
        """
        self._at_ns.append(at_ns)
        self._runs.frombytes(np.ascontiguousarray(written.array, dtype=np.int32).tobytes())
        self._starts.append(len(self._runs) // 2)

    def build(self, meta: Mapping[str, str]) -> Trace:
        """Return the trace of the intervals so far.

        Raises:
            ValueError: The intervals are not in the order of time, or pages lie outside the window.
        """
        return Trace(
            self.pages,
            np.array(self._at_ns, dtype=np.int64),
            np.array(self._starts, dtype=np.int64),
            np.array(self._runs, dtype=np.int32).reshape(-1, 2),
            meta,
        )


def _check(pages: int, at_ns: NDArray[np.int64], starts: NDArray[np.int64], runs: NDArray[np.int32]) -> None:
    """Check the arrays of a trace.

    Raises:
        ValueError: An array is not as `Trace` describes it.
    """
    if not 0 < pages <= MAX_PAGES:
        raise ValueError(f"{pages} pages are outside 1..{MAX_PAGES}")
    if at_ns.ndim != 1 or len(at_ns) > MAX_INTERVALS:
        raise ValueError(f"at_ns of shape {at_ns.shape} is not a list of up to {MAX_INTERVALS} intervals")
    if starts.shape != (len(at_ns) + 1,):
        raise ValueError(f"starts of shape {starts.shape} for {len(at_ns)} intervals")
    if runs.ndim != 2 or runs.shape[1] != 2 or len(runs) > MAX_RUNS:
        raise ValueError(f"runs of shape {runs.shape} are not a list of up to {MAX_RUNS} pairs")
    # The values are compared and not subtracted: a difference of hostile values may wrap around.
    if len(at_ns) and (at_ns[0] < 0 or (at_ns[1:] <= at_ns[:-1]).any()):
        raise ValueError("the intervals are not in the order of time")
    if starts[0] != 0 or starts[-1] != len(runs) or (starts[1:] < starts[:-1]).any():
        raise ValueError(f"starts do not divide the {len(runs)} runs among the intervals")
    if not len(runs):
        return
    if runs.min() < 0 or runs.max() > pages or (runs[:, 0] >= runs[:, 1]).any():
        raise ValueError(f"a run is empty, reversed or outside the {pages} pages")
    overlaps = runs[1:, 0] < runs[:-1, 1]
    # The first run of an interval may begin before the last run of the interval before.
    begins = starts[(starts > 0) & (starts < len(runs))] - 1
    overlaps[begins] = False
    if overlaps.any():
        raise ValueError("the runs of an interval overlap or are not sorted")
