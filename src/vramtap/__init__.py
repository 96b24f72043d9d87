r"""vramtap shows, records and automates the screen of any running machine by following its memory.

```python
async with vramtap.open("qemu:/run/vm.qmp") as tap:
    await tap.type("uptime\n")
    async for damage in tap.changes():
        for rect in damage.rects:
            show(tap.screen.pixels[rect.slices])

with vramtap.track(array) as writes:
    for start, stop in writes:
        ...
```

Everything below is imported when it is first used: `import vramtap` alone loads neither numpy nor asyncio.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vramtap import errors

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    import numpy as np
    from numpy.typing import NDArray

    from vramtap.display.damage import Damage
    from vramtap.display.region import Rect
    from vramtap.machine.machine import Machine
    from vramtap.pages import PageRuns
    from vramtap.servers.serve import Endpoints
    from vramtap.tap.tap import Tap
    from vramtap.targets.discovered import Discovered
    from vramtap.trackers.array_writes import ArrayWrites
    from vramtap.trackers.base import AllDirty, Reason
    from vramtap.trackers.choose import TrackerOptions

    __version__: str

__all__ = [
    "AllDirty",
    "Damage",
    "Machine",
    "PageRuns",
    "Reason",
    "Rect",
    "Tap",
    "TrackerOptions",
    "__version__",
    "discover",
    "errors",
    "open",
    "screenshot",
    "serve",
    "track",
]

# The helper that attaches to a process starts with this package and should be up in tens of milliseconds, so
# nothing heavy is imported here.
_LAZY = {
    "AllDirty": "vramtap.trackers.base",
    "Damage": "vramtap.display.damage",
    "Machine": "vramtap.machine.machine",
    "PageRuns": "vramtap.pages",
    "Reason": "vramtap.trackers.base",
    "Rect": "vramtap.display.region",
    "Tap": "vramtap.tap.tap",
    "TrackerOptions": "vramtap.trackers.choose",
}


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    if name == "__version__":
        from importlib.metadata import version

        return version("vramtap")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def open(url: str | Machine, *, tracker: str = "auto", options: TrackerOptions | None = None) -> Tap:
    """Return a tap of a target, to be entered with `async with`.

    Args:
        url: As on the command line: `qemu:PATH`, `x11::99`, `xen:DOMAIN`, `pid:...`, `shm:...`, `demo:`; or a
            `Machine` that the caller runs. Such a machine goes on when the tap is left.
        tracker: `auto`, `hybrid`, `log` or `compare`; for the built-in VM also `dirtybits` or `kvmlog`; for a
            Xen domain also `xen`.
        options: How late the first change may be seen where vramtap has to poll, and what the guest's time is
            worth.

    Raises:
        UsageError: the URL is not valid.
    """
    from vramtap.tap.tap import Tap
    from vramtap.targets.open import machine_target, open_target

    target = open_target(url) if isinstance(url, str) else machine_target(url)
    return Tap(target, tracker, options=options)


async def screenshot(url: str | Machine) -> NDArray[np.uint32]:
    """Return the screen of a target as it is now.

    The target is only read: it is not stopped and nothing is write-protected.

    Args:
        url: As for `open`.

    Returns:
        Shape `(height, width)`, `0x00RRGGBB`; a copy that belongs to the caller.

    Raises:
        UsageError: the URL is not valid.
        AttachError: the target cannot be tapped.
    """
    async with open(url, tracker="compare") as tap:
        return tap.screen.pixels.copy()


def serve(
    *targets: str | Machine | Tap,
    vnc: str | None = "127.0.0.1:5900",
    web: str | None = "127.0.0.1:8080",
    password: str | None = None,
    token: str | None = None,
    view_only: bool = False,
) -> AbstractAsyncContextManager[Endpoints]:
    """Serve targets to VNC viewers and browsers while the `async with` block runs.

    ```python
    async with vramtap.serve("qemu:/run/vm.qmp") as endpoints:
        print(endpoints.vnc[0], endpoints.web[0])
        await asyncio.sleep(3600)
    ```

    Args:
        targets: URLs as for `open`, machines, or taps that the caller has entered and leaves itself.
        vnc: `HOST:PORT` of the first target's VNC server; further targets get the next ports. Port 0 takes
            free ports; None starts no VNC server.
        web: `HOST:PORT` of the page; None starts none.
        password: VNC password, required for every address but loopback.
        token: What a browser has to show, required for every address but loopback.
        view_only: Whether keys and pointer of viewers are ignored.

    Returns:
        An async context manager that gives the addresses.

    Raises:
        UsageError: an option is not valid.
        ListenError: an address is busy or not of this machine.
        AttachError: a target cannot be tapped.
    """
    from vramtap.servers.serve import serve_targets

    return serve_targets(
        *targets, open_target=open, vnc=vnc, web=web, password=password, token=token, view_only=view_only
    )


def discover() -> list[Discovered]:
    """Return everything with a screen that this user can see on this machine. Nothing is disturbed.

    Returns:
        QEMU guests by pid, Xen domains by id, X displays by number; each with the URL for `open`.
    """
    from vramtap.targets.discover import discover as discover_targets

    return discover_targets()


def track(array: NDArray[Any], *, tracker: str = "auto") -> ArrayWrites:
    """Follow the writes to an array of this process.

    Args:
        array: C-contiguous and writable, any dtype and shape. The tracker keeps it alive.
        tracker: `auto`, `log` or `compare`.

    Returns:
        A started tracker of the array. Its first answer is `AllDirty(Reason.FIRST)`.

    Raises:
        ValueError: the array is empty, read-only or not contiguous.
        VramtapError: the requested tracker does not work here.
    """
    from vramtap.trackers.array_writes import ArrayWrites

    return ArrayWrites(array, tracker)
