"""TapTimings: the intervals and limits by which a tap works."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TapTimings:
    """Intervals of a tap, in seconds except where a field says otherwise.

    Args:
        interval_s: Between two scans while a viewer waits. Half of it is the mean latency of a change.
        idle_after_s: Time without a change after which the tap waits for the tracker to wake it, where the
            tracker can. Carets and clocks write once a second or more often; for them the change of hands
            costs more than it saves. A tracker may ask for a shorter time.
        eager_s: Between two scans after a wake-up, until a change is seen. The write that woke the tap may
            still be under way: the writer was held, and gets its processor back 1 to 2 ms later (measured).
        eager_scans: Number of scans at the interval `eager_s`. After these the pages were written without
            changing a pixel.
        retry_s: Wait after a scan that failed. The target may be about to end, and its end is seen first.
        max_duty: Share of the time that scans may take, 0 to 1. A tracker that reads everything is polled
            less often.
        gone_grace_s: Wait for the target's own account of its end, after its memory could not be read.
        mode_busy_s: Between two reads of the mode while pages are written. A guest draws into a new mode
            right after it has set it.
        mode_idle_s: Between two reads of the mode while nothing is written. A page flip without a write is
            seen this late.
        mode_armed_s: Longest time between two reads of the mode of an armed target that does not announce
            changes. The time starts at `mode_idle_s` and doubles. Each question to QEMU wakes two processes.
        flipping_s: Time after a page flip in which every scan reads the mode: flips come in series.
        snapshot_idle_s: Between two snapshots while nothing is written. A text cursor blinks without a
            write.
    """

    interval_s: float = 1 / 60
    idle_after_s: float = 1.0
    eager_s: float = 0.001
    eager_scans: int = 10
    retry_s: float = 0.05
    max_duty: float = 0.5
    gone_grace_s: float = 1.0
    mode_busy_s: float = 0.1
    mode_idle_s: float = 1.0
    mode_armed_s: float = 300.0
    flipping_s: float = 1.0
    snapshot_idle_s: float = 0.5


DEFAULT_TIMINGS = TapTimings()
"""The timings of a tap that is given none."""
