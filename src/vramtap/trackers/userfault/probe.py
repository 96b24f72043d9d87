"""Trial of the kernel's write log: writes a page and scans for it, whatever the kernel's version."""

from __future__ import annotations

from functools import cache

import numpy as np

from vramtap.errors import VramtapError
from vramtap.memory.own import extent_of
from vramtap.pages import PAGE_SIZE, PageRuns
from vramtap.trackers.userfault.log import LogTracker

_PAGES = 8
_WRITTEN = 3


@cache
def probe_log() -> str | None:
    """Write one page of an array of this process and scan the log for it.

    Returns:
        None if the log reported exactly this page, once; else what went wrong.
    """
    array = np.zeros((_PAGES + 1) * PAGE_SIZE, dtype=np.uint8)
    skip = -array.ctypes.data % PAGE_SIZE
    pages = array[skip : skip + _PAGES * PAGE_SIZE]
    tracker = LogTracker()
    try:
        tracker.start(extent_of(pages)[0])
        tracker.collect()
        before = tracker.collect()
        pages[_WRITTEN * PAGE_SIZE] = 1
        seen = tracker.collect()
        after = tracker.collect()
    except VramtapError as error:
        return str(error)
    finally:
        tracker.stop()
    if before or seen != PageRuns([(_WRITTEN, _WRITTEN + 1)]) or after:
        return f"after a write to page {_WRITTEN} the log reported {before}, {seen}, {after}"
    return None
