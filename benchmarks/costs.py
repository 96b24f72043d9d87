"""What tracking costs both sides in a frame, on recorded traces: the writer's stores, and the tap's CPU time.

A writer plays a trace. Sixty times a second it stores one word into each page that was written in the
interval, and times these stores. The guest loses what the stores take longer than untapped. The tap's cost is
the CPU time of its processes. Both are real costs of real calls into the kernel. `vramtap trace replay`
computes from a model what a policy would cost at best.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from benchmarks.follow import follower
from benchmarks.painter import Painter
from vramtap.errors import VramtapError
from vramtap.trace.store import load

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vramtap.pages import PageRuns
    from vramtap.trace.trace import Trace

Progress = Callable[[str], None]

HZ: Final = 60
"""Frames a second: a tap's scan rate."""
TRACES: Final = Path(__file__).resolve().parents[1] / "tests" / "traces"


@dataclass(frozen=True)
class Cost:
    """Cost of tracking one trace with one tracker.

    Args:
        trace: Name of the trace.
        tracker: Name as in `--tracker`.
        frames: Number of frames played.
        pages: Pages written in a frame, mean.
        lost_us: Time the writer loses in a frame, microseconds, mean: the difference to untapped. It may be
            slightly negative because measurements vary.
        tap_us: CPU time of the tap and its helpers in a frame, microseconds, mean.
        scans: Scans of the tracker in a frame.
    """

    trace: str
    tracker: str
    frames: int
    pages: float
    lost_us: float
    tap_us: float
    scans: float

    @property
    def total_us(self) -> float:
        """Time lost by the writer plus CPU time of the tap, microseconds."""
        return self.lost_us + self.tap_us


def recorded(directory: Path = TRACES) -> dict[str, Path]:
    """Return the recorded traces, by name."""
    return {path.stem: path for path in sorted(directory.glob("*/*.parquet"))}


def measure(
    traces: Sequence[Path], trackers: Sequence[str], seconds: float, progress: Progress
) -> Iterator[Cost]:
    """Play traces, untapped and with each tracker.

    Args:
        traces: Recorded files.
        trackers: Names as in `--tracker`.
        seconds: Longest part of each trace that is played, seconds, from its middle. Every trace is played at
            `HZ`, whatever rate it was recorded at.
        progress: Called with what is going on.

    Yields:
        A cost for each pair, trace by trace.

    Raises:
        VramtapError: A file is not a trace.
    """
    for path in traces:
        trace = load(path)
        frames = excerpt(trace, round(seconds * HZ))
        if not frames:
            raise VramtapError("costs", str(path), "holds no interval")
        with Painter(trace.pages) as painter:
            progress(f"{path.stem}: untapped")
            free_us = own_us(painter.replay(frames, HZ))
            for tracker in trackers:
                progress(f"{path.stem}: {tracker}")
                with follower(painter.url, tracker) as tap:
                    before, scans = tap.spent(), tap.stats()["polls"]
                    times = painter.replay(frames, HZ)
                    scans, spent = tap.stats()["polls"] - scans, tap.spent().since(before)
                yield Cost(
                    path.stem,
                    tracker,
                    len(frames),
                    sum(runs.count for runs in frames) / len(frames),
                    float(own_us(times).mean() - free_us.mean()),
                    spent.cpu_ns / 1e3 / len(frames),
                    scans / len(frames),
                )


def excerpt(trace: Trace, most: int) -> list[PageRuns]:
    """Return at most so many intervals from the middle of a trace; its beginning is the first picture."""
    first = max(0, (trace.intervals - most) // 2)
    return [trace.written(interval) for interval in range(first, min(first + most, trace.intervals))]


def own_us(times: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the writer's own time of each frame: CPU time with faults, and the time it was held.

    Time for which another process has the writer's core is not lost to tracking. So in a frame in which the
    writer never slept its CPU time counts, and in the other frames the clock's time.

    Args:
        times: Shape `(frames, 3)`, as returned by `Painter.replay`.

    Returns:
        Shape `(frames,)`, microseconds.
    """
    took, cpu, slept = times.T
    own: NDArray[np.float64] = np.where(slept > 0, np.maximum(took, cpu), cpu) / 1e3
    return own
