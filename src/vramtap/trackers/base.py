"""Tracker: the contract of all trackers, and the answers they give."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from vramtap.errors import VramtapError
from vramtap.memory.events import Waker

if TYPE_CHECKING:
    from collections.abc import Callable

    from vramtap.memory.extent import Extent
    from vramtap.pages import PageRuns

__all__ = ["AllDirty", "Reason", "Tracker", "TrackerDefaults", "Waker", "not_started", "started"]


class Reason(StrEnum):
    """Why a tracker's log is not complete."""

    FIRST = "first"
    """The first scan of these pages."""
    REMAPPED = "remapped"
    """The memory behind the extent was replaced or moved, or lost its registration."""
    OVERFLOW = "overflow"
    """The log was full."""
    UNMAPPED = "unmapped"
    """Part of the extent has no memory behind it, or the guest maps no part of it."""
    ALIASED = "aliased"
    """A frame is mapped at more than one address, or may have been for a while."""
    ARMED = "armed"
    """The tracker was armed: writes while the protection changed are in no log."""
    WOKEN = "woken"
    """The first write after arming: later writes, until the log was back, are in no log."""
    LARGE_PAGE = "large-page"
    """A large page maps the extent and has one dirty bit for many pages."""
    TAKEN = "taken"
    """Another program read the same log meanwhile, or reading it failed halfway."""
    UNLOGGED = "unlogged"
    """Something may have written in a way that no log records."""


@dataclass(frozen=True, slots=True)
class AllDirty:
    """Answer of a tracker whose log is not complete: treat all pages of the window as dirty.

    Args:
        reason: Why.
        detail: What the tracker saw, for a log message.
    """

    reason: Reason
    detail: str = ""


class Tracker(Protocol):
    """Reports which pages of an extent were written since the last scan.

    1. It never misses a write: a write before `collect` returned is in that answer or in the next one.
    2. It may report pages that were not written.
    3. It clears its log first, and the caller reads the pixels afterwards, from `read_from`. It is started
       before the first full read.
    4. However the process ends, the target is left as it was found.
    """

    @property
    def name(self) -> str:
        """Value of `--tracker` that selects it."""
        ...

    @property
    def prefers_window(self) -> bool:
        """Whether a smaller window costs less, so that the caller should pass only the pages it shows."""
        ...

    @property
    def read_from(self) -> Extent:
        """Extent to read the reported pages from: the tracked extent, or a copy of the same shape.

        Raises:
            VramtapError: not started.
        """
        ...

    def start(self, extent: Extent) -> None:
        """Start tracking.

        Raises:
            VramtapError: this tracker cannot track the extent.
        """
        ...

    def collect(self, window: tuple[int, int] | None = None) -> PageRuns | AllDirty:
        """Return the pages written since the last collect, and clear the log of them.

        Args:
            window: Half-open page range; the whole extent by default. Writes outside it are kept for a later
                call.

        Returns:
            Page runs relative to the extent and inside the window, or `AllDirty` for the window.

        Raises:
            VramtapError: not started, or the log could not be read.
            TargetGone: the owner of the memory has ended.
        """
        ...

    def restore(self, runs: PageRuns) -> None:
        """Report these pages again: the caller collected them but could not use them."""
        ...

    @property
    def has_more(self) -> bool:
        """Whether the last answer held only the most urgent pages; the next one holds the rest."""
        ...

    @property
    def wants_feedback(self) -> bool:
        """Whether `feedback` is useful now: the last answer had pages that may not have been written."""
        ...

    def feedback(self, changed: PageRuns) -> None:
        """Learn what the caller found changed in the last answer, once it has read the pages.

        Without this call tracking gets slower, but no write is missed.

        Args:
            changed: Pages relative to the extent whose bytes differ from those read before.
        """
        ...

    @property
    def idle_after_s(self) -> float:
        """Longest time without a change before the caller should call `wake`, seconds."""
        ...

    def wake(self, callback: Callable[[], None]) -> Waker | None:
        """Wait for the first write in the background.

        Args:
            callback: Called once, by any thread, when a collect may have an answer.

        Returns:
            Ends the wait, also after the callback; None if the caller has to poll, at least for now.
        """
        ...

    def stop(self) -> None:
        """Stop tracking and leave the target as it was found; harmless if not started."""
        ...


class TrackerDefaults:
    """The optional part of `Tracker`, for trackers that report all written pages at once and no others."""

    @property
    def has_more(self) -> bool:
        """False: every answer is complete."""
        return False

    @property
    def wants_feedback(self) -> bool:
        """False: every reported page was written."""
        return False

    def feedback(self, changed: PageRuns) -> None:
        """Do nothing."""

    @property
    def idle_after_s(self) -> float:
        """Infinite: the caller decides."""
        return float("inf")


def started(extent: Extent | None, tracker: str) -> Extent:
    """Return the extent of a tracker.

    Args:
        extent: The tracked extent; None before `start` and after `stop`.
        tracker: Name of the tracker.

    Raises:
        VramtapError: `extent` is None.
    """
    if extent is None:
        raise not_started(tracker)
    return extent


def not_started(tracker: str) -> VramtapError:
    """Return the error for a call that needs a started tracker."""
    return VramtapError("tracker", tracker, "not started", "call start() first")
