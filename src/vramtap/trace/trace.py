"""Trace: which pages of a scanout were written in which interval, as arrays, and how one is put together."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from vramtap.display.mode import MAX_DIMENSION, MAX_STRIDE_BYTES
from vramtap.errors import VramtapError
from vramtap.pages import PAGE_SIZE, PageRuns

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

MAX_PAGES: Final = MAX_DIMENSION * MAX_STRIDE_BYTES // PAGE_SIZE
"""Pages a scanout can take: as many rows as a mode may have, each as long as it may be."""
MAX_INTERVALS: Final = 1 << 23
"""Intervals of a trace: 38 hours at 60 looks a second."""
MAX_RUNS: Final = 1 << 26
"""Runs of a whole trace: 512 MiB of them; eight for each interval of the longest one."""
MAX_CELLS: Final = 1 << 28
"""Cells of `Trace.dirty`: 2 GiB. Nine hours at 60 looks a second in 128 tiles."""


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Which pages were written when. Immutable, and checked as a whole: it may come from a stranger.

    Args:
        pages: Of the extent; the scanout's window only.
        at_ns: Shape `(intervals,)`, int64: when each look was taken, nanoseconds from the recording's
            begin; strictly rising, the first one not negative.
        starts: Shape `(intervals + 1,)`, int64: `runs[starts[i]:starts[i + 1]]` are interval i's.
        runs: Shape `(n, 2)`, int32: half-open page ranges `[first, last)`, none empty, sorted and disjoint
            within an interval.
        meta: What is known of the recording, as text: `target`, `mode`, `hz`, `kernel`, `recorded`, ...

    Raises:
        ValueError: the arrays do not fit one another or a value is out of bounds.
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
            # A view: the caller's own array stays as it is.
            view = given.view()
            view.flags.writeable = False
            object.__setattr__(self, name, view)
        object.__setattr__(self, "meta", dict(self.meta))
        _check(self.pages, self.at_ns, self.starts, self.runs)

    @property
    def intervals(self) -> int:
        """How many looks were taken."""
        return len(self.at_ns)

    @property
    def duration_s(self) -> float:
        """From the recording's begin to its last look, seconds."""
        return float(self.at_ns[-1]) / 1e9 if self.intervals else 0.0

    @property
    def interval_s(self) -> float:
        """Between two looks, seconds, median; of a single one, from the begin. 0.0 without any."""
        return float(np.median(np.diff(self.at_ns, prepend=0))) / 1e9 if self.intervals else 0.0

    def written(self, interval: int) -> PageRuns:
        """The pages written in one interval."""
        return PageRuns(self.runs[self.starts[interval] : self.starts[interval + 1]].astype(np.int64))

    def tiles(self, tile_pages: int) -> NDArray[np.int64]:
        """Pages of each tile, shape `(tiles,)`: all `tile_pages`, but for the last one.

        Raises:
            ValueError: a tile of no page.
        """
        if tile_pages <= 0:
            raise ValueError(f"tiles of {tile_pages} pages")
        sizes = np.full(-(-self.pages // tile_pages), tile_pages, dtype=np.int64)
        sizes[-1] = self.pages - tile_pages * (len(sizes) - 1)
        return sizes

    def dirty(self, tile_pages: int) -> NDArray[np.int64]:
        """How many pages of each tile were written in each interval.

        Args:
            tile_pages: Pages a tile; the last tile may be shorter.

        Returns:
            Shape `(intervals, tiles)`.

        Raises:
            ValueError: a tile of no page.
            VramtapError: the trace is too long for tiles so small.
        """
        tiles = len(self.tiles(tile_pages))
        if self.intervals * tiles > MAX_CELLS:
            least = -(-self.pages * self.intervals // MAX_CELLS)
            raise VramtapError(
                "trace",
                f"{self.intervals} intervals in {tiles} tiles",
                f"more than {MAX_CELLS} cells",
                f"take tiles of about {least} pages or more, or a shorter trace",
            )
        counts = np.zeros((self.intervals, tiles + 1), dtype=np.int64)
        if not len(self.runs):
            return counts[:, :tiles]
        interval = np.repeat(np.arange(self.intervals), np.diff(self.starts))
        first, last = self.runs[:, 0].astype(np.int64), self.runs[:, 1].astype(np.int64)
        lower, upper = first // tile_pages, (last - 1) // tile_pages
        # Whole tiles between a run's two ends, as steps up and down that are summed along the tiles.
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
                np.array_equal(mine, its)
                for mine, its in (
                    (self.at_ns, other.at_ns),
                    (self.starts, other.starts),
                    (self.runs, other.runs),
                )
            )
        )

    __hash__ = None  # type: ignore[assignment]  # as of any class with an __eq__ over arrays


class TraceBuilder:
    """A trace in the making: one call an interval, eight bytes a run.

    Args:
        pages: Of the extent; the scanout's window only.

    Raises:
        ValueError: no page, or more than any mode takes.
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
        """Whether another interval might not fit."""
        return len(self._at_ns) >= MAX_INTERVALS or len(self._runs) // 2 + self.pages > MAX_RUNS

    def add(self, at_ns: int, written: PageRuns) -> None:
        """Keep an interval.

        Args:
            at_ns: When the look was taken, nanoseconds from the recording's begin; later than the one before.
            written: Pages of the window, counted from its first.
        """
        self._at_ns.append(at_ns)
        self._runs.frombytes(np.ascontiguousarray(written.array, dtype=np.int32).tobytes())
        self._starts.append(len(self._runs) // 2)

    def build(self, meta: Mapping[str, str]) -> Trace:
        """What was kept so far, as a trace.

        Raises:
            ValueError: the looks were not in order, or pages lie outside.
        """
        return Trace(
            self.pages,
            np.array(self._at_ns, dtype=np.int64),
            np.array(self._starts, dtype=np.int64),
            np.array(self._runs, dtype=np.int32).reshape(-1, 2),
            meta,
        )


def _check(pages: int, at_ns: NDArray[np.int64], starts: NDArray[np.int64], runs: NDArray[np.int32]) -> None:
    """Hold the arrays to what `Trace` promises of them.

    Raises:
        ValueError: one does not.
    """
    if not 0 < pages <= MAX_PAGES:
        raise ValueError(f"{pages} pages are outside 1..{MAX_PAGES}")
    if at_ns.ndim != 1 or len(at_ns) > MAX_INTERVALS:
        raise ValueError(f"at_ns of shape {at_ns.shape} is no list of up to {MAX_INTERVALS} intervals")
    if starts.shape != (len(at_ns) + 1,):
        raise ValueError(f"starts of shape {starts.shape} for {len(at_ns)} intervals")
    if runs.ndim != 2 or runs.shape[1] != 2 or len(runs) > MAX_RUNS:
        raise ValueError(f"runs of shape {runs.shape} are no list of up to {MAX_RUNS} pairs")
    # Compared, not subtracted: a difference of hostile values may wrap around.
    if len(at_ns) and (at_ns[0] < 0 or (at_ns[1:] <= at_ns[:-1]).any()):
        raise ValueError("the looks are not in the order of time")
    if starts[0] != 0 or starts[-1] != len(runs) or (starts[1:] < starts[:-1]).any():
        raise ValueError(f"the intervals do not share out the {len(runs)} runs")
    if not len(runs):
        return
    if runs.min() < 0 or runs.max() > pages or (runs[:, 0] >= runs[:, 1]).any():
        raise ValueError(f"a run is empty, reversed or outside the {pages} pages")
    overlaps = runs[1:, 0] < runs[:-1, 1]
    # The first run of an interval follows no other.
    begins = starts[(starts > 0) & (starts < len(runs))] - 1
    overlaps[begins] = False
    if overlaps.any():
        raise ValueError("the runs of an interval overlap or are not sorted")
