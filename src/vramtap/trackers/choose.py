"""Choose the tracker of an extent: the one named by the user, or the first that a trial shows to work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from vramtap.errors import NotFound, TargetGone, UsageError, VramtapError
from vramtap.policy.costs import MAX_GUEST_COST_FACTOR
from vramtap.trackers.compare import CompareTracker
from vramtap.trackers.poller import IDLE_INTERVAL_S
from vramtap.trackers.userfault.hybrid import HybridTracker
from vramtap.trackers.userfault.log import LogTracker
from vramtap.trackers.userfault.probe import probe_log

if TYPE_CHECKING:
    from vramtap.memory.extent import Extent
    from vramtap.trackers.base import Tracker

NAMES: Final = ("auto", "hybrid", "log", "compare", "dirtybits", "kvmlog", "xen")
"""Values of `--tracker`. `dirtybits` and `kvmlog` are for the built-in VM, `xen` is for Xen domains."""
MIN_LATENCY_S: Final = 0.001
"""Polling more often costs more than scanning without a pause."""
MAX_LATENCY_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Choice:
    """A tracker that was started, and why it was chosen.

    Args:
        tracker: The tracker, started on the extent.
        why: The reason as one clause: `the kernel logs writes (probe passed)`.
        stopped_us: How long attaching stopped a thread of the target, microseconds.
    """

    tracker: Tracker
    why: str
    stopped_us: float = 0.0


@dataclass(frozen=True, slots=True)
class TrackerOptions:
    """The user's options for trackers; each tracker uses those that apply to it.

    Args:
        latency_s: Poll interval for idle targets that cannot wake vramtap, seconds: the longest time until
        the
            first change is noticed.
        guest_cost_factor: Weight of guest CPU time relative to vramtap's.

    Raises:
        UsageError: a value is out of range.
    """

    latency_s: float = IDLE_INTERVAL_S
    guest_cost_factor: float = 1.0

    def __post_init__(self) -> None:
        if not MIN_LATENCY_S <= self.latency_s <= MAX_LATENCY_S:
            bounds = f"{MIN_LATENCY_S * 1000:g} to {MAX_LATENCY_S * 1000:g} ms"
            raise UsageError("--latency", f"{self.latency_s * 1000:g} ms", "out of range", f"give {bounds}")
        if not 0 <= self.guest_cost_factor <= MAX_GUEST_COST_FACTOR:
            raise UsageError(
                "--guest-cost-factor",
                f"{self.guest_cost_factor:g}",
                "out of range",
                f"give 0 to {MAX_GUEST_COST_FACTOR:g}",
            )


def choose(
    name: str,
    extent: Extent,
    *,
    allow_filtered: bool = False,
    wants_feedback: bool = True,
    options: TrackerOptions | None = None,
) -> Choice:
    """Start the tracker with this name on an extent.

    `auto` takes `hybrid` if a trial write on this kernel is logged and the target accepts the attach.
    Otherwise it takes `compare`, and `Choice.why` has the reason.

    Args:
        name: One of `NAMES`.
        extent: What to track.
        allow_filtered: Attach to a target with a seccomp filter; see `linux.inject`.
        wants_feedback: Whether the caller reports what changed (`Tracker.feedback`). If not, `auto` takes
            `log` instead of `hybrid`.
        options: Options of the user.

    Raises:
        UsageError: no tracker has this name.
        VramtapError: the named tracker cannot track this extent.
        TargetGone: the owner of the memory has ended.
    """
    if name not in NAMES:
        raise UsageError("--tracker", name, "no such tracker", f"one of {', '.join(NAMES)}")
    if name == "compare":
        return _compare(extent, "requested")
    options = options or TrackerOptions()
    if name == "xen" or extent.space.frames is not None:
        return _xen(name, extent, options)
    if name in ("dirtybits", "kvmlog"):
        tracker = _machine_tracker(name)
        tracker.start(extent)
        return Choice(tracker, "requested")
    log: HybridTracker | LogTracker
    if name == "hybrid" or (name == "auto" and wants_feedback):
        log = HybridTracker(
            allow_filtered=allow_filtered,
            latency_s=options.latency_s,
            guest_cost_factor=options.guest_cost_factor,
        )
    else:
        log = LogTracker(allow_filtered=allow_filtered, latency_s=options.latency_s)
    if name != "auto":
        log.start(extent)
        return Choice(log, "requested" + _while_idle(log, extent), log.stopped_us)
    return _log_or_compare(log, extent)


def _log_or_compare(log: HybridTracker | LogTracker, extent: Extent) -> Choice:
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
    why = "the kernel logs writes here (a page was written and seen)"
    return Choice(log, why + _while_idle(log, extent), log.stopped_us)


def _while_idle(tracker: HybridTracker | LogTracker, extent: Extent) -> str:
    """Return how changes are noticed while idle, as a clause; empty if the tracker can be armed."""
    if extent.space.events is not None:
        return "; the machine wakes vramtap"
    if isinstance(tracker, HybridTracker) and tracker.unarmable:
        return f"; polled while idle, not armed: {tracker.unarmable}"
    return ""


def _machine_tracker(name: str) -> Tracker:
    # Imported here: only the built-in VM needs these.
    if name == "dirtybits":
        from vramtap.trackers.machine.dirtybits import DirtyBitsTracker

        return DirtyBitsTracker()
    from vramtap.trackers.machine.kvmlog import KvmLogTracker

    return KvmLogTracker()


def _xen(name: str, extent: Extent, options: TrackerOptions) -> Choice:
    """Start the tracker of a Xen domain. Only the hypervisor logs its writes, so `hybrid` means `xen` too."""
    from vramtap.trackers.xen.tracker import XenTracker

    if name not in ("auto", "hybrid", "xen"):
        raise UsageError("--tracker", name, "cannot track a Xen domain", "use xen, compare or auto")
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
