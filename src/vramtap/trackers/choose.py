"""Which tracker an extent gets: the one asked for, or the first that a trial shows to work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from vramtap.errors import NotFound, TargetGone, UsageError, VramtapError
from vramtap.machine.space import GuestSpace
from vramtap.memory.foreign import XenSpace
from vramtap.policy.costs import HEAVIEST_WEIGHT
from vramtap.trackers.compare import CompareTracker
from vramtap.trackers.poller import IDLE_INTERVAL_S
from vramtap.trackers.userfault.hybrid import HybridTracker
from vramtap.trackers.userfault.log import LogTracker
from vramtap.trackers.userfault.probe import probe_log

if TYPE_CHECKING:
    from vramtap.memory.extent import Extent
    from vramtap.trackers.base import Tracker

NAMES: Final = ("auto", "hybrid", "log", "compare", "dirtybits", "kvmlog", "xen")
"""What `--tracker` takes; the last are for the embedded machine (two), and for Xen domains."""
SOONEST_S: Final = 0.001
"""To be asked more often costs more than looking all the time."""
LATEST_S: Final = 10.0
"""To be asked more rarely is not to be watched."""


@dataclass(frozen=True, slots=True)
class Choice:
    """An armed tracker and why it is this one.

    Args:
        tracker: Armed on the extent.
        why: One clause for people: `the kernel logs writes (probe passed)`.
    """

    tracker: Tracker
    why: str


@dataclass(frozen=True, slots=True)
class TrackerOptions:
    """What a user asks of whichever tracker it becomes.

    Args:
        latency_s: How late the first change after a while may be noticed where nothing but asking notices
            it, seconds: how often an idle target is asked that cannot be armed.
        guest_cost_factor: A microsecond taken from the guest counts as so many of ours.

    Raises:
        UsageError: a value that nothing can be done with.
    """

    latency_s: float = IDLE_INTERVAL_S
    guest_cost_factor: float = 1.0

    def __post_init__(self) -> None:
        if not SOONEST_S <= self.latency_s <= LATEST_S:
            bounds = f"{SOONEST_S * 1000:g} to {LATEST_S * 1000:g} ms"
            raise UsageError("--latency", f"{self.latency_s * 1000:g} ms", "is not waited for", bounds)
        if not 0 <= self.guest_cost_factor <= HEAVIEST_WEIGHT:
            raise UsageError(
                "--guest-cost-factor",
                f"{self.guest_cost_factor:g}",
                "is no weight",
                f"0 to {HEAVIEST_WEIGHT:g}",
            )


def choose(
    name: str,
    extent: Extent,
    *,
    allow_filtered: bool = False,
    wants_feedback: bool = True,
    options: TrackerOptions | None = None,
) -> Choice:
    """Arm the tracker of this name on an extent.

    `auto` takes `hybrid` where writing a page of our own shows that the kernel logs it and the target lets
    itself be attached to; else `compare`, with the reason.

    Args:
        name: One of `NAMES`.
        extent: What to watch.
        allow_filtered: Attach to a target with a seccomp filter; see `linux.inject`.
        options: Of the user, for those trackers that can heed them.
        wants_feedback: Whether the consumer reports what changed (`Tracker.feedback`). If it does not,
            `auto` takes `log`.

    Raises:
        UsageError: no tracker has this name.
        VramtapError: the tracker asked for by name cannot watch this extent.
        TargetGone: whose memory it is has ended.
    """
    if name not in NAMES:
        raise UsageError("--tracker", name, "no such tracker", f"one of {', '.join(NAMES)}")
    if name == "compare":
        return _compare(extent, "asked for")
    options = options or TrackerOptions()
    if name == "xen" or isinstance(extent.space, XenSpace):
        return _xen(name, extent, options)
    if name in ("dirtybits", "kvmlog"):
        tracker = _of_the_machine(name)
        tracker.start(extent)
        return Choice(tracker, "asked for")
    hybrid = name == "hybrid" or (name == "auto" and wants_feedback)
    log: HybridTracker | LogTracker
    if hybrid:
        log = HybridTracker(
            allow_filtered=allow_filtered,
            latency_s=options.latency_s,
            guest_cost_factor=options.guest_cost_factor,
        )
    else:
        log = LogTracker(allow_filtered=allow_filtered, latency_s=options.latency_s)
    if name != "auto":
        log.start(extent)
        return Choice(log, "asked for" + _unarmable(log, extent))
    refusal = probe_log()
    if refusal is not None:
        return _compare(extent, f"log does not work on this kernel: {refusal}")
    try:
        log.start(extent)
    except TargetGone:
        raise
    except NotFound as error:
        raise TargetGone(error.operation, error.object, error.reason) from error
    except VramtapError as error:
        return _compare(extent, f"log refused: {error}")
    return Choice(log, "the kernel logs writes here (a page was written and seen)" + _unarmable(log, extent))


def _unarmable(tracker: Tracker, extent: Extent) -> str:
    if isinstance(extent.space, GuestSpace):
        return "; the machine wakes us"
    if isinstance(tracker, HybridTracker) and tracker.unarmable:
        return f"; asked while idle, not armed: {tracker.unarmable}"
    return ""


def _of_the_machine(name: str) -> Tracker:
    # Loaded when asked for: only the embedded machine has use for them.
    if name == "dirtybits":
        from vramtap.trackers.machine.dirtybits import DirtyBitsTracker

        return DirtyBitsTracker()
    from vramtap.trackers.machine.kvmlog import KvmLogTracker

    return KvmLogTracker()


def _xen(name: str, extent: Extent, options: TrackerOptions) -> Choice:
    """In a domain the hypervisor's log is all there is, and nothing wakes us: `hybrid` is the same."""
    from vramtap.trackers.xen.tracker import XenTracker

    if name not in ("auto", "hybrid", "xen"):
        raise UsageError("--tracker", name, "does not follow a Xen domain", "xen, compare or auto")
    tracker = XenTracker(latency_s=options.latency_s)
    try:
        tracker.start(extent)
    except VramtapError as error:
        if name != "auto":
            raise
        return _compare(extent, f"the hypervisor's log refused: {error}")
    return Choice(tracker, "the hypervisor logs writes")


def _compare(extent: Extent, why: str) -> Choice:
    tracker = CompareTracker()
    tracker.start(extent)
    return Choice(tracker, why)
