"""Tracker: the contract every way of finding written pages fulfils."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from vramtap.memory.extent import Extent
    from vramtap.pages import PageRuns


class Reason(StrEnum):
    """Why a tracker cannot vouch for its log."""

    FIRST = "first"
    """These pages have not been asked about before."""
    REMAPPED = "remapped"
    """The memory behind the extent was replaced, moved or lost its registration."""
    OVERFLOW = "overflow"
    """The log filled up and could not be continued."""
    UNMAPPED = "unmapped"
    """Part of the extent has no memory behind it now, or the guest maps no part of it."""
    ALIASED = "aliased"
    """A frame is mapped at more than one address, or may have been for a while."""
    ARMED = "armed"
    """The extent was armed: what was written while the log changed hands is found by looking once."""
    WOKEN = "woken"
    """The first write after it was armed: what was written until the log was back is found by looking."""
    LARGE_PAGE = "large-page"
    """A mapping has no dirty bit for each page: one large page covers many."""
    TAKEN = "taken"
    """Somebody else asked for the same log meanwhile, or asking failed halfway: what it held is not known."""
    UNLOGGED = "unlogged"
    """Something may have written by a way that is in no log."""


@dataclass(frozen=True, slots=True)
class AllDirty:
    """The answer of a tracker that cannot vouch for its log: look at all pages asked about.

    Args:
        reason: Why.
        detail: What was seen, for a log line.
    """

    reason: Reason
    detail: str = ""


class Waker(Protocol):
    """A wait for the first write that is under way."""

    @property
    def fd(self) -> int | None:
        """What becomes readable at the first write: whoever waits watches it, and nobody calls back.

        None where the callback comes.
        """
        ...

    def cancel(self) -> None:
        """End it; called exactly once, before the next collect, restore or disarm."""
        ...


class Tracker(Protocol):
    """Says which pages of an extent were written since it was last asked.

    1. A write is never missed: whatever was written before `collect` returned and has not been
       reported is in this answer or in the next one.
    2. It may report too much; `precision` says whether it does.
    3. It clears first, and the caller reads pixels after, from `read_from`. It is armed before the first
       full read.
    4. However the process leaves, the target is left as it was found.
    """

    @property
    def name(self) -> str:
        """What `--tracker` calls it."""
        ...

    @property
    def precision(self) -> Literal["exact", "superset"]:
        """Whether only pages written are reported, or pages near them too."""
        ...

    @property
    def prefers_window(self) -> bool:
        """Whether asking about less costs less, so that only what is shown should be asked about."""
        ...

    @property
    def read_from(self) -> Extent:
        """Where the consumer reads what was collected: the armed extent, or a copy of the same shape.

        Raises:
            VramtapError: not armed.
        """
        ...

    def start(self, extent: Extent) -> None:
        """Start watching.

        Raises:
            VramtapError: the extent cannot be watched this way.
        """
        ...

    def collect(self, window: tuple[int, int] | None = None) -> PageRuns | AllDirty:
        """Read and clear what was written since the last collect.

        Args:
            window: Half-open page range to ask about; all pages by default. What was written
                outside is kept for a later call.

        Returns:
            Page runs relative to the extent and inside the window, or `AllDirty` of the window.

        Raises:
            TargetGone: whose memory it is has ended.
        """
        ...

    def restore(self, runs: PageRuns) -> None:
        """Report these pages again: whoever collected them could not use them."""
        ...

    @property
    def has_more(self) -> bool:
        """Whether the last answer was the part that somebody waits for: the next one has the rest."""
        ...

    @property
    def wants_feedback(self) -> bool:
        """Whether `feedback` is of use now: pages were reported that may or may not have been written."""
        ...

    def feedback(self, changed: PageRuns) -> None:
        """Hear what the consumer found changed in what was last collected, once it has read it.

        Not to call it costs speed, never a write.

        Args:
            changed: Pages relative to the extent whose bytes differed from those read before.
        """
        ...

    @property
    def idle_after_s(self) -> float:
        """How long nothing must have changed before `wake` is worth the change of hands, at most, seconds."""
        ...

    def wake(self, callback: Callable[[], None]) -> Waker | None:
        """Wait for the first write without being asked.

        Args:
            callback: Called once, from any thread, when a collect may have something to say.

        Returns:
            What ends the waiting, also after the callback; None where this tracker must be asked, at
            least for now.
        """
        ...

    def stop(self) -> None:
        """Stop watching and leave the target as it was found; harmless when not armed."""
        ...


class TrackerDefaults:
    """What a tracker answers that reports at once all that was written, and nothing else."""

    @property
    def has_more(self) -> bool:
        """Never."""
        return False

    @property
    def wants_feedback(self) -> bool:
        """Never."""
        return False

    def feedback(self, changed: PageRuns) -> None:
        """Nothing depends on it."""

    @property
    def idle_after_s(self) -> float:
        """As long as for anybody."""
        return float("inf")
