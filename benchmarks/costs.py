"""What following costs both sides in a frame: the writer's stores, and our CPU, on recorded traces.

A writer plays a trace: at every interval, sixty a second, it stores one word into each page that was written
in it, and times that. What the stores take longer than untapped is lost to the guest; what the tap's
processes spend meanwhile is ours. Both are real costs of real calls into the kernel; what a policy would cost
at best is the model's affair (`vramtap trace replay`).
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
"""Frames a second: as often as a tap looks."""
TRACES: Final = Path(__file__).resolve().parents[1] / "tests" / "traces"


@dataclass(frozen=True)
class Cost:
    """Following one trace in one way.

    Args:
        trace: Its name.
        tracker: As `--tracker` names it.
        frames: Played.
        pages: Written in a frame, mean.
        lost_us: Of the writer's time in a frame, microseconds, mean: the difference to the same untapped,
            which may fall below nothing by what measuring varies.
        our_us: CPU of the tap and its helpers in a frame, microseconds, mean.
        looks: How often the tracker was asked in a frame.
    """

    trace: str
    tracker: str
    frames: int
    pages: float
    lost_us: float
    our_us: float
    looks: float

    @property
    def total_us(self) -> float:
        """Lost and ours, a microsecond being a microsecond."""
        return self.lost_us + self.our_us


def recorded(directory: Path = TRACES) -> dict[str, Path]:
    """The traces there are, by name."""
    return {path.stem: path for path in sorted(directory.glob("*/*.parquet"))}


def measure(
    traces: Sequence[Path], trackers: Sequence[str], seconds: float, progress: Progress
) -> Iterator[Cost]:
    """Play traces, untapped and followed by each tracker.

    Args:
        traces: Recorded files.
        trackers: As `--tracker` names them.
        seconds: Of each trace at most, from its middle on where it is longer; a trace is slowed down or
            hurried to `HZ` where it was looked at at another rate.
        progress: Told what is going on.

    Yields:
        A cost for each pair, trace by trace.

    Raises:
        VramtapError: a file is no trace.
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
                    before, looks = tap.spent(), tap.stats()["looks"]
                    times = painter.replay(frames, HZ)
                    looks, ours = tap.stats()["looks"] - looks, tap.spent().since(before)
                yield Cost(
                    path.stem,
                    tracker,
                    len(frames),
                    sum(runs.count for runs in frames) / len(frames),
                    float(own_us(times).mean() - free_us.mean()),
                    ours.cpu_ns / 1e3 / len(frames),
                    looks / len(frames),
                )


def excerpt(trace: Trace, most: int) -> list[PageRuns]:
    """The intervals in the middle of a trace, so many at most: the beginning is the first picture."""
    first = max(0, (trace.intervals - most) // 2)
    return [trace.written(interval) for interval in range(first, min(first + most, trace.intervals))]


def own_us(times: NDArray[np.int64]) -> NDArray[np.float64]:
    """The writer's own time of each frame: its CPU time, faults included, and being held, if it was.

    What passes by the clock while another process has its core is no loss to tracking, and is not in it: so
    of frames in which the writer was never put to sleep the CPU time counts, and of the others the clock.

    Args:
        times: Shape `(frames, 3)`, as `Painter.replay` gives them.

    Returns:
        Shape `(frames,)`, microseconds.
    """
    took, cpu, slept = times.T
    own: NDArray[np.float64] = np.where(slept > 0, np.maximum(took, cpu), cpu) / 1e3
    return own
