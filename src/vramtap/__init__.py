"""vramtap shows a guest's screen by following the pages its video RAM was written through.

```python
async with vramtap.open("qemu:/run/vm.qmp") as tap:
    async for damage in tap.changes():
        ...
tracker = vramtap.track(array)
tracker.collect()
with vramtap.Machine("kernel.elf") as machine:
    async with vramtap.open(machine) as tap:
        ...
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vramtap.machine.machine import Machine
    from vramtap.tap.tap import Tap
    from vramtap.trackers.base import Tracker

__all__ = ["Machine", "open", "track"]

# Nothing heavy is imported here: the helper that attaches to a process starts with this package, and
# should be up in tens of milliseconds.


def __getattr__(name: str) -> object:
    if name == "Machine":
        from vramtap.machine.machine import Machine

        return Machine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def open(url: str | Machine, *, tracker: str = "auto") -> Tap:
    """A tap of a target, to be entered with `async with`.

    Args:
        url: As on the command line: `qemu:PATH`, `x11::99`, `pid:...`, `shm:...`, `demo:`. Or a `Machine` of
            the caller's own, which goes on when the tap is left.
        tracker: `auto`, `hybrid`, `log` or `compare`; of the embedded machine also `dirtybits` or `kvmlog`.

    Returns:
        Not attached until it is entered.

    Raises:
        UsageError: the URL means nothing.
    """
    from vramtap.tap.tap import Tap
    from vramtap.targets.open import machine_target, open_target

    return Tap(open_target(url) if isinstance(url, str) else machine_target(url), tracker=tracker)


def track(array: NDArray[Any], *, tracker: str = "auto") -> Tracker:
    """Follow the writes to an array of this process.

    Args:
        array: C-contiguous and writable, any dtype and shape; kept alive by the tracker.
        tracker: `auto`, `log` or `compare`.

    Returns:
        Armed; `collect()` names pages of 4,096 bytes counted from the page the array begins in.

    Raises:
        ValueError: the array is empty, read-only or not contiguous.
        VramtapError: the tracker asked for does not work here.
    """
    from vramtap.memory.own import extent_of
    from vramtap.trackers.choose import choose

    return choose(tracker, extent_of(array)[0], wants_feedback=False).tracker
