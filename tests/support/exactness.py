"""Which trackers report only pages that were written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vramtap.trackers.xen.tracker import XenTracker

if TYPE_CHECKING:
    from vramtap.trackers.base import Tracker

EXACT: Final = frozenset({"compare", "dirtybits", "kvmlog", "softlog"})


def is_exact(tracker: Tracker) -> bool:
    """Return whether the tracker reports no page that was not written.

    Under shadow paging Xen reports every page that has several mappings.
    """
    if isinstance(tracker, XenTracker):
        return not tracker.shadow
    return tracker.name in EXACT
