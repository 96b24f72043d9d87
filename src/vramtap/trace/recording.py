"""Recording: the intervals recorded so far; Follower: the part of the target's memory that is recorded."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from vramtap.errors import VramtapError
from vramtap.pages import PageRuns
from vramtap.policy.costs import Costs
from vramtap.trace.trace import Trace, TraceBuilder
from vramtap.trackers.base import AllDirty, Tracker

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vramtap.display.mode import Mode

COSTS: Final = "costs"
"""Key in a trace's metadata of the costs measured on its target, as a JSON object."""
FORMER_NAMES: Final = {"guest_weight": "guest_cost_factor", "look_us": "scan_us"}
"""Names of cost fields in older recordings, and the present ones."""


class Recording:
    """The intervals recorded so far. They remain, whatever ends the recording.

    Args:
        name: What is recorded, as the trace's `target`.
        hz: Intervals a second.
        clock: `host`, or `guest` if the intervals are in the guest's own time.
        meta: Further metadata of the trace.

    Attributes:
        ended: What ended the recording, in one clause; empty while it runs.
        intervals: Number of intervals.
        seconds: Time recorded, on the recording's clock.
        pages_written: Sum of the pages written in each interval.
        costs: Costs measured on the target before the recording; None if they could not be measured.
    """

    def __init__(self, name: str, hz: float, clock: str, meta: dict[str, str] | None = None) -> None:
        self.ended = ""
        self.intervals: int = 0
        self.seconds: float = 0.0
        self.pages_written: int = 0
        self.costs: Costs | None = None
        self._builder: TraceBuilder | None = None
        self._all_dirty: Counter[str] = Counter()
        self._moves = 0
        self._skipped = 0
        self._meta = {
            **(meta or {}),
            "target": name,
            "hz": f"{hz:g}",
            "clock": clock,
            # Without the suffix that builders append, which may name a machine.
            "kernel": platform.release().partition("-")[0],
            "vramtap": version("vramtap"),
        }

    def begin(self, mode: Mode) -> None:
        """Begin the recording. Pages are counted from the first page of this mode's window."""
        first, last = mode.window
        self._builder = TraceBuilder(last - first)
        self._meta |= {"mode": str(mode), "recorded": datetime.now(UTC).isoformat(timespec="seconds")}

    def add(self, at_ns: int, answer: PageRuns | AllDirty, first_page: int) -> None:
        """Add an interval.

        Args:
            at_ns: End of the interval, nanoseconds since the recording began; later than the one before.
            answer: The tracker's answer, with pages relative to the extent. `AllDirty` is kept as all pages.
            first_page: First page of the window in the extent.
        """
        builder = self._begun()
        if isinstance(answer, AllDirty):
            self._all_dirty[answer.reason] += 1
            written = PageRuns.full(builder.pages)
        else:
            written = answer.shift(-first_page) if first_page else answer
        builder.add(at_ns, written)
        self.intervals, self.seconds = len(builder), at_ns / 1e9
        self.pages_written += written.count

    def count_move(self) -> None:
        """Count that the screen has moved to another place of the extent, with the same number of pages."""
        self._moves += 1

    def count_skipped(self, intervals: int) -> None:
        """Count intervals that could not be scanned in time; their writes are in the next interval."""
        self._skipped += intervals

    @property
    def full(self) -> bool:
        """True if another interval might exceed a limit of a trace."""
        return self._begun().full

    @property
    def pages(self) -> int:
        """Number of pages of the window."""
        return self._begun().pages

    def trace(self) -> Trace:
        """Return the trace of the intervals so far, with the events of the recording in `meta`.

        Raises:
            ValueError: The recording has not begun.
        """
        builder = self._begun()
        meta = {**self._meta, "ended": self.ended or "it has not"}
        if self._all_dirty:
            meta["all_dirty"] = ", ".join(f"{reason} {count}" for reason, count in self._all_dirty.items())
        if self._moves:
            meta["moves"] = str(self._moves)
        if self._skipped:
            meta["skipped"] = str(self._skipped)
        if self.costs is not None:
            meta[COSTS] = json.dumps(dataclasses.asdict(self.costs))
        return builder.build(meta)

    def _begun(self) -> TraceBuilder:
        if self._builder is None:
            raise ValueError("the recording has not begun")
        return self._builder


class Follower:
    """Follows the window of the screen in the extent, interval by interval.

    A screen that moves in its memory and keeps its number of pages (a page flip) is followed: all its pages
    count as written then, because a tap would read all of them. A screen that gets another number of pages
    ends the recording, because a trace has one number of pages.

    Args:
        tracker: Tracker that has been started.
        recording: Receives the intervals; begun here.
        mode: Present mode.

    Raises:
        VramtapError: The tracker failed.
    """

    def __init__(self, tracker: Tracker, recording: Recording, mode: Mode) -> None:
        self.mode: Mode = mode
        self._tracker = tracker
        self._recording = recording
        # Drops the writes from before the recording.
        tracker.collect(mode.window)
        recording.begin(mode)

    def collect(self) -> PageRuns | AllDirty:
        """Return the pages written in the window since the last collect."""
        return self._tracker.collect(self.mode.window)

    def add(self, at_ns: int, answer: PageRuns | AllDirty, mode: Mode | None) -> str:
        """Add an interval to the recording.

        Args:
            at_ns: End of the interval, nanoseconds since the recording began.
            answer: Answer of `collect`.
            mode: Present mode; None if it is not linear.

        Returns:
            Why the recording ends, in one clause; empty if it continues.

        Raises:
            VramtapError: The tracker failed.
        """
        first, last = self.mode.window
        ended = ""
        if mode is None or mode.window[1] - mode.window[0] != last - first:
            ended = f"the mode changed to {mode or 'a mode that is not linear'}"
        else:
            if mode.window != self.mode.window:
                # Drops what was written to the new window until now: it is not of the next interval.
                self._tracker.collect(mode.window)
                answer = PageRuns([mode.window])
                self._recording.count_move()
            self.mode = mode
        self._recording.add(at_ns, answer, self.mode.window[0])
        return ended or ("the trace has reached its longest length" if self._recording.full else "")


def costs_of(trace: Trace) -> Costs | None:
    """Return the costs that were measured on a trace's target.

    Returns:
        None if the trace carries no costs.

    Raises:
        VramtapError: The trace's costs are not valid.
    """
    text = trace.meta.get(COSTS)
    if text is None:
        return None
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise VramtapError("trace", COSTS, "is not JSON", "give --costs") from error
    if not isinstance(values, dict):
        raise VramtapError("trace", COSTS, "is not a JSON object", "give --costs")
    return costs_from_mapping(values)


def costs_from_mapping(values: Mapping[str, object]) -> Costs:
    """Build costs from the fields of a JSON object, by their present or their former names.

    Older recordings have other names (`FORMER_NAMES`). vramtap reads both, and writes the
    present names only.

    Args:
        values: By field name.

    Raises:
        VramtapError: A field is missing, unknown, given under both its names, or not a number.
    """
    renamed = dict(values)
    for former, present in FORMER_NAMES.items():
        if former in renamed and present not in renamed:
            renamed[present] = renamed.pop(former)
    return Costs.from_mapping(renamed)
