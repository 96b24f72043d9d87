"""What a server costs while a viewer is connected and nothing changes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import servers
from benchmarks.servers import Server
from benchmarks.watching import Waiting, settle
from lab.guest import Guest
from lab.xvfb import Framebuffer, Xvfb

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Idle:
    """Over one measured stretch, a viewer connected, nothing drawn.

    Args:
        cpu_ms_s: CPU milliseconds a second of the server's process, all threads.
        wakeups_s: Voluntary context switches a second.
        bytes_read: Of the target's memory, after the first picture; None for servers that do not tell.
    """

    cpu_ms_s: float
    wakeups_s: float
    bytes_read: int | None


def on_qemu(stretch_s: float, progress: Progress) -> dict[str, Idle]:
    """Ours on a real guest whose console stands still."""
    with Guest() as guest:
        guest.quiet()
        screen_bytes = guest.screendump().size * 4
        with servers.vramtap(guest.url) as ours, Waiting([ours]) as waiting:
            progress(f"QEMU guest: idle for {stretch_s:.0f} s")
            cost = _measure(ours, waiting, stretch_s)
    return {ours.name: Idle(*cost, bytes_read=ours.report["bytes_read"] - screen_bytes)}


def on_xvfb(stretch_s: float, progress: Progress) -> dict[str, Idle]:
    """Each server alone on an Xvfb on which nothing is drawn."""
    found = {}
    with Xvfb(Framebuffer.PLAIN) as xvfb:
        for start in (servers.vramtap, servers.x11vnc, servers.x0vncserver):
            with contextlib.ExitStack() as stack:
                url = xvfb.url if start is servers.vramtap else xvfb.display
                server = stack.enter_context(start(url))
                waiting = stack.enter_context(Waiting([server]))
                progress(f"Xvfb: {server.name} idle for {stretch_s:.0f} s")
                cost = _measure(server, waiting, stretch_s)
            read = server.report.get("bytes_read")
            # Xvfb's picture begins in the middle of a page, so one page more than its size is read.
            first = -(-(xvfb.width * xvfb.height * 4 + 4095) // 4096) * 4096
            found[server.name] = Idle(*cost, bytes_read=None if read is None else max(0, read - first))
    return found


def _measure(server: Server, waiting: Waiting, stretch_s: float) -> tuple[float, float]:
    """CPU milliseconds and wake-ups a second, once the server has come to rest."""
    settle([waiting], 3.0)
    cpu_ns, wakeups = _spent(server.pid)
    settle([waiting], stretch_s)
    cpu_after_ns, wakeups_after = _spent(server.pid)
    return (cpu_after_ns - cpu_ns) / 1e6 / stretch_s, (wakeups_after - wakeups) / stretch_s


def _spent(pid: int) -> tuple[int, int]:
    """CPU nanoseconds of the whole process, and voluntary context switches of the threads there are."""
    wakeups = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        for line in (task / "status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                wakeups += int(line.split()[1])
    # The CPU clock of another process: its complemented pid, and 2 for scheduler time (kernel:
    # include/linux/posix-timers.h). Unlike the threads' own figures it keeps those that have ended.
    return time.clock_gettime_ns(~pid << 3 | 2), wakeups
