"""Traces that tests build by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vramtap.pages import NO_PAGES, PageRuns
from vramtap.trace.trace import Trace, TraceBuilder

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence


def trace_of(written: Sequence[Collection[int]], pages: int, *, interval_ns: int = 16_666_667) -> Trace:
    """Build a trace from the pages written in each interval; pages outside the window are left out."""
    builder = TraceBuilder(pages)
    for number, indices in enumerate(written):
        builder.add((number + 1) * interval_ns, PageRuns.from_pages(sorted(p for p in indices if p < pages)))
    return builder.build({})


def blinking(
    period: int, intervals: int, *, pages: int = 40, written: int = 4, meta: Mapping[str, str] | None = None
) -> Trace:
    """Build a trace in which pages from 3 on are written in every `period`th interval.

    Args:
        period: Distance of two intervals with writes; the first interval has writes.
        intervals: Number of intervals, 16 ms each.
        pages: Number of pages of the window.
        written: Number of pages written.
        meta: Metadata of the trace.
    """
    builder = TraceBuilder(pages)
    for number in range(intervals):
        runs = NO_PAGES if number % period else PageRuns([(3, 3 + written)])
        builder.add((number + 1) * 16_000_000, runs)
    return builder.build(meta or {})
