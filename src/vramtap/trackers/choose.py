"""Which tracker an extent gets: the one asked for, or the first that a trial shows to work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vramtap.errors import NotFound, TargetGone, UsageError, VramtapError
from vramtap.memory.extent import Extent
from vramtap.trackers.compare import CompareTracker
from vramtap.trackers.contract import Tracker
from vramtap.trackers.hybrid import HybridTracker
from vramtap.trackers.probe import probe_log
from vramtap.trackers.writelog import LogTracker

NAMES: Final = ("auto", "hybrid", "log", "compare", "dirtybits", "kvmlog")
"""What `--tracker` takes; the last two are for the embedded machine only."""


@dataclass(frozen=True, slots=True)
class Choice:
    """An armed tracker and why it is this one.

    Args:
        tracker: Armed on the extent.
        why: One clause for people: `the kernel logs writes (probe passed)`.
    """

    tracker: Tracker
    why: str


def choose(name: str, extent: Extent, *, allow_filtered: bool = False, learns: bool = True) -> Choice:
    """Arm the tracker of this name on an extent.

    `auto` takes `hybrid` where writing a page of our own shows that the kernel logs it and the target lets
    itself be attached to; else `compare`, with the reason.

    Args:
        name: One of `NAMES`.
        extent: What to watch.
        allow_filtered: Attach to a target with a seccomp filter; see `linux.inject`.
        learns: Whether the consumer will tell what changed (`Tracker.learn`); without, `auto` takes `log`.

    Raises:
        UsageError: no tracker has this name.
        VramtapError: the tracker asked for by name cannot watch this extent.
        TargetGone: whose memory it is has ended.
    """
    if name not in NAMES:
        raise UsageError("--tracker", name, "no such tracker", f"one of {', '.join(NAMES)}")
    if name == "compare":
        return _compare(extent, "asked for")
    if name in ("dirtybits", "kvmlog"):
        tracker = _of_the_machine(name)
        tracker.arm(extent)
        return Choice(tracker, "asked for")
    hybrid = name == "hybrid" or (name == "auto" and learns)
    log = (HybridTracker if hybrid else LogTracker)(allow_filtered=allow_filtered)
    if name != "auto":
        log.arm(extent)
        return Choice(log, "asked for" + _unarmable(log))
    refusal = probe_log()
    if refusal is not None:
        return _compare(extent, f"log does not work on this kernel: {refusal}")
    try:
        log.arm(extent)
    except TargetGone:
        raise
    except NotFound as error:
        raise TargetGone(error.operation, error.object, error.reason) from error
    except VramtapError as error:
        return _compare(extent, f"log refused: {error}")
    return Choice(log, "the kernel logs writes here (a page was written and seen)" + _unarmable(log))


def _unarmable(tracker: Tracker) -> str:
    if isinstance(tracker, HybridTracker) and tracker.unarmable:
        return f"; asked while idle, not armed: {tracker.unarmable}"
    return ""


def _of_the_machine(name: str) -> Tracker:
    # Loaded when asked for: only the embedded machine has use for them.
    if name == "dirtybits":
        from vramtap.trackers.dirtybits import DirtyBitsTracker

        return DirtyBitsTracker()
    from vramtap.trackers.kvmlog import KvmLogTracker

    return KvmLogTracker()


def _compare(extent: Extent, why: str) -> Choice:
    tracker = CompareTracker()
    tracker.arm(extent)
    return Choice(tracker, why)
