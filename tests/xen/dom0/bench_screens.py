"""Cost and latency of serving a screen, measured at stations of one domain, one server and one viewer."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from xen.dom0.bench_server import Counted
from xen.dom0.bench_usage import NOTHING, Usage
from xen.dom0.bench_viewer import Watching
from xen.dom0.driver import BootSectorGuest
from xen.dom0.driver_domain import GUESTS

if TYPE_CHECKING:
    import random

IDLE_S: Final = 20.0
"""Time without a change before each shot, s."""
UNSETTLED_S: Final = 5.0
"""Time from a shot to the start of the idle measurement, s."""
TICK_HZ: Final = 25
"""Tick of waiting guests. It is low because each tick is an exit to an emulated hypervisor."""
DOTS: Final = 64
"""Width of a shot, pixels."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Configuration of one station.

    Args:
        hap: Paging mode of its domain.
        size: Columns and rows of its screen.
        server: `qemu`, or `vramtap`.
        latency_ms: vramtap's `--latency`; 0 for its default.
    """

    hap: bool
    size: tuple[int, int]
    server: str
    latency_ms: int = 0

    @property
    def row(self) -> dict[str, Any]:
        """The columns for the table."""
        width, height = self.size
        return {
            "hap": self.hap,
            "screen": f"{width}x{height}",
            "server": self.server,
            "latency_ms": self.latency_ms,
        }


class Domain:
    """A domain of the boot-sector guest.

    Args:
        number: A number that no other domain has.
        hap: Whether paging is hardware-assisted.
    """

    def __init__(self, number: int, *, hap: bool) -> None:
        self.hap = hap
        self.vnc_port = 5900 + number
        """Port of QEMU's own VNC server."""
        disk = Path(f"/tmp/bench-{number}.img")
        shutil.copy(GUESTS / "boot-sector.img", disk)
        self.machine = BootSectorGuest(f"bench-{number}", hap=hap, vnc_display=number, disk=disk)
        self.machine.__enter__()
        # Set at once, because a high tick slows down the boot of the next domain.
        self.machine.tick(TICK_HZ)
        path = f"/local/domain/{self.machine.domid}/image/device-model-pid"
        done = subprocess.run(["xenstore-read", path], capture_output=True, text=True, check=True)
        self.model_pid = int(done.stdout)
        """Process id of the domain's QEMU."""

    def close(self) -> None:
        """Destroy it."""
        self.machine.destroy()


class Station:
    """A domain without another server, a server of its screen, and its viewer.

    Args:
        plan: The configuration.
        domain: A domain of the plan's paging mode.
    """

    def __init__(self, plan: Plan, domain: Domain) -> None:
        self.plan, self.machine = plan, domain.machine
        self.shots_ms: list[float] = []
        self.asked_ms: list[float] = []
        self.lost = 0
        self.shot_s = float("-inf")
        self.used, self.model_used = NOTHING, NOTHING
        self.counted: Counter[str] = Counter()
        self.stats: dict[str, Any] = {}
        """The last statistics of vramtap."""
        self._domain = domain
        self._before: tuple[Usage, Usage, dict[str, float]] | None = None
        self._pending: tuple[float, float] | None = None
        self.machine.set_mode(*plan.size, 32)
        self._server: Counted | None = None
        port = domain.vnc_port
        if plan.server == "vramtap":
            how = ("--latency", str(plan.latency_ms)) if plan.latency_ms else ()
            self._server = Counted(f"xen:{self.machine.name}", *how)
            port = self._server.port
        self._viewer = Watching(port)
        self.shot_s = time.monotonic()

    @property
    def server_pid(self) -> int:
        """Process id of the server."""
        return self._server.pid if self._server is not None else self._domain.model_pid

    # Shots

    @property
    def noted(self) -> bool:
        """Whether the idle measurement has started."""
        return self._before is not None

    def note(self) -> None:
        """Start the idle measurement, which lasts until the next shot."""
        counts = self._server.counts() if self._server is not None else {}
        self._before = Usage.of(self.server_pid), Usage.of(self._domain.model_pid), counts

    def _noted(self) -> None:
        if self._before is None:
            return
        used, model_used, counts = self._before
        self._before = None
        self.used = self.used.plus(Usage.of(self.server_pid).since(used))
        self.model_used = self.model_used.plus(Usage.of(self._domain.model_pid).since(model_used))
        if self._server is not None:
            for name, count in self._server.counts().items():
                self.counted[name] += count - counts[name]  # type: ignore[assignment]

    def shoot(self, chance: random.Random) -> None:
        """Let the guest draw a line; `gather` records when the viewer saw it."""
        self._noted()
        machine = self.machine
        row = chance.randrange(machine.height)
        column = chance.randrange(machine.width - DOTS)
        colour = chance.randrange(1, 1 << 24)
        self._viewer.expect(column, row, colour)
        asked_s = time.monotonic()
        machine.fill(row * machine.pitch + column * 4, DOTS, colour)
        self.shot_s = time.monotonic()
        self._pending = asked_s, self.shot_s

    def gather(self, timeout_s: float = 0.0) -> None:
        """Record when the viewer saw the last shot."""
        if self._pending is None:
            return
        asked_s, drawn_s = self._pending
        self._pending = None
        if self._viewer.seen(timeout_s):
            self.shots_ms.append((self._viewer.seen_s - drawn_s) * 1000)
            self.asked_ms.append((self._viewer.seen_s - asked_s) * 1000)
        else:
            self.lost += 1

    def stop(self) -> None:
        """Stop the viewer and the server."""
        self._viewer.close()
        if self._server is not None:
            self._server.close()
            self.stats = self._server.stats

    @property
    def row(self) -> dict[str, Any]:
        """All measurements of the shots and of the idle time between them."""
        return {
            **self.plan.row,
            "ms": self.shots_ms,
            "asked_ms": self.asked_ms,
            "lost": self.lost,
            "idle_s": self.used.at_s,
            "cpu_ms": self.used.cpu_ms,
            "switches": self.used.switches,
            "model_cpu_ms": self.model_used.cpu_ms,
            "model_switches": self.model_used.switches,
            "counted": dict(self.counted),
            "stats": self.stats,
        }
