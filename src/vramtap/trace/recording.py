"""What a recording has kept so far, and which part of the target's memory it is about."""

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
GUEST_COST_FACTOR: Final = "guest_cost_factor"
FORMER_GUEST_COST_FACTOR: Final = "guest_weight"
"""Name of that field in older recordings."""


class Recording:
    """What was recorded so far: whatever ends the recording, this stays.

    Args:
        name: What was recorded, as the trace's `target`.
        hz: Looks a second.
        clock: `host`, or `guest` where each interval is one of the guest's own.
        meta: More to say of it.

    Attributes:
        ended: What ended it, in one clause; empty while it runs.
        looks: Intervals kept.
        seconds: Of them, on the recording's clock.
        pages_written: In all intervals together.
        costs: Measured on the target before; None where they could not be.
    """

    def __init__(self, name: str, hz: float, clock: str, meta: dict[str, str] | None = None) -> None:
        self.ended = ""
        self.looks = 0
        self.seconds = 0.0
        self.pages_written = 0
        self.costs: Costs | None = None
        self._builder: TraceBuilder | None = None
        self._everything: Counter[str] = Counter()
        self._moves = 0
        self._skipped = 0
        self._meta = {
            **(meta or {}),
            "target": name,
            "hz": f"{hz:g}",
            "clock": clock,
            # Its version proper: what builders append to it is nobody's business.
            "kernel": platform.release().partition("-")[0],
            "vramtap": version("vramtap"),
        }

    def begin(self, mode: Mode) -> None:
        """The first look follows: from here on pages are counted from the first one of this mode's window."""
        first, last = mode.window
        self._builder = TraceBuilder(last - first)
        self._meta |= {"mode": str(mode), "recorded": datetime.now(UTC).isoformat(timespec="seconds")}

    def keep(self, at_ns: int, answer: PageRuns | AllDirty, first_page: int) -> None:
        """Keep a look.

        Args:
            at_ns: When it was taken, nanoseconds from the begin; later than the one before.
            answer: Of the tracker, pages counted as it does; `AllDirty` is kept as all pages.
            first_page: Of the window in the tracker's extent.
        """
        builder = self._begun()
        if isinstance(answer, AllDirty):
            self._everything[answer.reason] += 1
            written = PageRuns.full(builder.pages)
        else:
            written = answer.shift(-first_page) if first_page else answer
        builder.add(at_ns, written)
        self.looks, self.seconds = len(builder), at_ns / 1e9
        self.pages_written += written.count

    def moved(self) -> None:
        """Another part of the extent is shown from now on, in as many pages."""
        self._moves += 1

    def skipped(self, looks: int) -> None:
        """So many looks could not be taken in time; what they would have told is in the next one."""
        self._skipped += looks

    @property
    def full(self) -> bool:
        """Whether another look might not fit into a trace."""
        return self._begun().full

    @property
    def pages(self) -> int:
        """Of the window."""
        return self._begun().pages

    def trace(self) -> Trace:
        """What was kept, and in `meta` what happened to it.

        Raises:
            ValueError: it has not begun.
        """
        builder = self._begun()
        meta = {**self._meta, "ended": self.ended or "it has not"}
        if self._everything:
            meta["everything"] = ", ".join(f"{why} {count}" for why, count in self._everything.items())
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
    """The part of the extent that is shown, look by look.

    A screen that moves in its memory and stays as large (a page flip) is followed: all its pages count as
    written then, as a tap reads all of them. One that takes another number of pages ends the recording, since
    a trace has one number of pages.

    Args:
        tracker: Armed.
        recording: Takes the looks; begun here.
        mode: That is shown now.

    Raises:
        VramtapError: the tracker failed.
    """

    def __init__(self, tracker: Tracker, recording: Recording, mode: Mode) -> None:
        self.mode = mode
        self._tracker = tracker
        self._recording = recording
        # What was written before is not of this recording.
        tracker.collect(mode.window)
        recording.begin(mode)

    def collect(self) -> PageRuns | AllDirty:
        """What was written in the window since the last look."""
        return self._tracker.collect(self.mode.window)

    def keep(self, at_ns: int, answer: PageRuns | AllDirty, mode: Mode | None) -> str:
        """Keep a look.

        Args:
            at_ns: When it was taken, nanoseconds from the begin.
            answer: Of `collect`.
            mode: That is shown now.

        Returns:
            Why nothing can follow, in one clause; empty if something can.

        Raises:
            VramtapError: the tracker failed.
        """
        first, last = self.mode.window
        ended = ""
        if mode is None or mode.window[1] - mode.window[0] != last - first:
            ended = f"the mode changed to {mode or 'none that is linear'}"
        else:
            if mode.window != self.mode.window:
                # Asked about, so that what was written there until now is not of the next look.
                self._tracker.collect(mode.window)
                answer = PageRuns([mode.window])
                self._recording.moved()
            self.mode = mode
        self._recording.keep(at_ns, answer, self.mode.window[0])
        return ended or ("no trace may be longer" if self._recording.full else "")


def costs_of(trace: Trace) -> Costs | None:
    """Return the costs that were measured on a trace's target.

    Returns:
        None where the trace carries no costs.

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

    Older recordings call `guest_cost_factor` `guest_weight`. vramtap reads both names, and writes the present
    one only.

    Args:
        values: By field name.

    Raises:
        VramtapError: A field is missing, unknown, given under both its names, or not a number.
    """
    renamed = dict(values)
    if GUEST_COST_FACTOR not in renamed and FORMER_GUEST_COST_FACTOR in renamed:
        renamed[GUEST_COST_FACTOR] = renamed.pop(FORMER_GUEST_COST_FACTOR)
    return Costs.from_mapping(renamed)
