"""Cost of serving while the guest draws: a film, and fills of the screen at full speed."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

from xen.dom0.bench_screens import TICK_HZ, Domain
from xen.dom0.bench_server import Counted
from xen.dom0.bench_usage import Usage
from xen.dom0.bench_viewer import Watching
from xen.dom0.driver_page import Operation

if TYPE_CHECKING:
    from collections.abc import Callable

    from xen.dom0.driver import BootSectorGuest

BUSY_TICK_HZ: Final = 1000
VIDEO_HZ: Final = 25
FILL_ROUNDS: Final = 3
_AHEAD: Final = 100
"""Number of commands kept in the queue of a busy guest."""
_U32: Final = 0xFFFFFFFF

Rows = dict[str, list[dict[str, Any]]]


def busy(domain: Domain, size: tuple[int, int], video_s: float, fills_s: float) -> Rows:
    """Measure a film and full speed, without a viewer, with a silent one, and with an active one.

    Args:
        domain: A domain without a server.
        size: Columns and rows of its screen.
        video_s: Duration of the film, s.
        fills_s: Duration of each run at full speed, s.
    """
    machine = domain.machine
    machine.set_mode(*size, 32)
    machine.tick(BUSY_TICK_HZ)
    about_domain = {"hap": domain.hap, "screen": f"{size[0]}x{size[1]}"}
    rows: Rows = {"video": [], "fills": []}

    def take(name: str, server: Counted | None, viewer: Watching | None, who: str) -> None:
        about = {**about_domain, "server": name, "viewer": who}
        if who != "connected":
            rows["video"].append({**about, **_video(domain, server, viewer, video_s)})
        rows["fills"].append({**about, "per_s": [_fills(machine, fills_s) for _ in range(FILL_ROUNDS)]})

    take("none", None, None, "none")
    for name in ("qemu", "vramtap"):
        with ExitStack() as stack:
            server = None
            if name == "vramtap":
                server = Counted(f"xen:{machine.name}")
                stack.callback(server.close)
                silent = Watching(server.port, asks=False)
                take(name, server, None, "connected")
                silent.close()
            viewer = Watching(domain.vnc_port if server is None else server.port)
            stack.callback(viewer.close)
            time.sleep(1.0)
            take(name, server, viewer, "active")
    machine.tick(TICK_HZ)
    return rows


def _video(domain: Domain, server: Counted | None, viewer: Watching | None, seconds: float) -> dict[str, Any]:
    """Measure while a third of the screen is filled `VIDEO_HZ` times a second."""
    machine = domain.machine
    dwords = machine.height // 3 * machine.pitch // 4

    def totals() -> tuple[Usage, Usage, dict[str, float], int]:
        served = Usage.of(domain.model_pid if server is None else server.pid)
        counts = {} if server is None else server.counts()
        return served, Usage.of(domain.model_pid), counts, 0 if viewer is None else viewer.updates

    before, began = totals(), time.monotonic()
    fills = int(seconds * VIDEO_HZ)
    for turn in range(fills):
        _put_fill(machine, dwords, turn * 0x010305)
        time.sleep(max(0.0, began + (turn + 1) / VIDEO_HZ - time.monotonic()))
    machine.finish()
    after = totals()
    served, model = after[0].since(before[0]), after[1].since(before[1])
    return {
        "s": served.at_s,
        "fills": fills,
        "updates": after[3] - before[3],
        "cpu_ms": served.cpu_ms,
        "switches": served.switches,
        "model_cpu_ms": model.cpu_ms,
        "counted": {name: count - before[2][name] for name, count in after[2].items()},
    }


def _fills(machine: BootSectorGuest, seconds: float) -> float:
    """Return how often a second the guest fills its whole screen at full speed."""
    dwords = machine.height * machine.pitch // 4
    machine.spin(True)
    page = machine.page
    began, count, turn = time.monotonic(), page.tail, 0
    while time.monotonic() < began + seconds:
        # Enough commands to keep the guest busy, but few enough for a short wait at the end.
        while page.head - page.tail & _U32 < _AHEAD:
            turn += 1
            _put_fill(machine, dwords, turn)
        time.sleep(0.02)
    rate = (page.tail - count & _U32) / (time.monotonic() - began)
    machine.finish()
    machine.spin(False)
    return rate


def _put_fill(machine: BootSectorGuest, dwords: int, value: int) -> None:
    """Like `machine.fill`, but without updating the model, which costs more than the guest's work."""
    put: Callable[..., None] = machine._open.put
    put(Operation.FILL, 0, dwords, value & 0xFFFFFF, 0, 0)
