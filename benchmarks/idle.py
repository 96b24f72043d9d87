"""What a server costs while a viewer is connected and nothing changes: wake-ups and CPU time.

All servers run at the same time, each on its own screen, and are measured over the same stretch. Helper
processes are included. The stretch begins when all servers have come to rest, or after a time limit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from benchmarks import servers
from benchmarks.rest import REST_LIMIT_S, family, name_of, spent, wait_for_rest
from benchmarks.watching import Waiting, drain
from support.testbed.guest import Guest
from support.testbed.xvfb import Framebuffer, Xvfb

if TYPE_CHECKING:
    from benchmarks.servers import Server

Progress = Callable[[str], None]

DEMO: Final = "demo:?workload=idle&hz=0"
"""Target whose guest draws nothing and has no timer."""


@dataclass(frozen=True)
class Idle:
    """Cost of one server over the stretch, with a viewer connected and nothing drawn.

    Args:
        where: Kind of target the server shows.
        server: Name of the server.
        rest_s: Time from the start until the server came to rest, seconds; None if it did not.
        voluntary: Context switches because a thread waited, of all its processes and threads.
        involuntary: Context switches because the kernel ran another process.
        cpu_ms: CPU time of all its processes and threads, milliseconds.
        threads_changed: Number of threads that began or ended.
        updates: Updates sent; there should be none.
        helpers: Names of its helper processes.
        bytes_read: Bytes of the target's memory read since the start; None for servers that do not report it.
        tracker: vramtap's tracker; None for other servers.
    """

    where: str
    server: str
    rest_s: float | None
    voluntary: int
    involuntary: int
    cpu_ms: float
    threads_changed: int
    updates: int
    helpers: list[str]
    bytes_read: int | None
    tracker: str | None


def measure(stretch_s: float, tracker: str, progress: Progress, limit_s: float = REST_LIMIT_S) -> list[Idle]:
    """Measure vramtap on a QEMU guest, on the built-in VM and on Xvfb, and x11vnc and x0vncserver on Xvfb.

    Args:
        stretch_s: Length of the measurement, seconds.
        tracker: vramtap's tracker, named as in `--tracker`.
        progress: Called with what is going on.
        limit_s: Longest wait for all servers to come to rest, seconds.
    """
    with contextlib.ExitStack() as stack:
        guest = stack.enter_context(Guest())
        guest.quiet()
        shown: dict[str, tuple[str, Server]] = {}
        with contextlib.ExitStack() as running:
            for where, url in (("QEMU guest", guest.url), ("built-in VM", DEMO)):
                server = running.enter_context(servers.vramtap(url, "--tracker", tracker))
                shown[f"{where}: {server.name}"] = where, server
            for name in (servers.VRAMTAP, servers.X11VNC, servers.X0VNCSERVER):
                xvfb = stack.enter_context(Xvfb(Framebuffer.PLAIN))
                server = running.enter_context(servers.on_xvfb(name, xvfb, tracker))
                shown[f"Xvfb: {name}"] = "Xvfb", server
            viewers = {
                title: running.enter_context(Waiting([server])) for title, (_, server) in shown.items()
            }
            all_viewers = list(viewers.values())
            progress(f"waiting up to {limit_s:.0f} s for all servers to come to rest")
            pids = {title: server.pid for title, (_, server) in shown.items()}

            def serve(pause_s: float) -> None:
                drain(all_viewers, pause_s)

            rests = wait_for_rest(pids, serve, limit_s=limit_s)
            families = {title: family(pid) for title, pid in pids.items()}
            before = {title: spent(processes) for title, processes in families.items()}
            progress(f"idle for {stretch_s:.0f} s")
            updates = dict(zip(viewers, drain(all_viewers, stretch_s), strict=True))
            costs = {title: spent(families[title]).since(before[title]) for title in shown}
            helpers = {title: [name_of(pid) for pid in families[title][1:]] for title in shown}
    return [
        Idle(
            where,
            server.name,
            rests[title],
            costs[title].voluntary,
            costs[title].involuntary,
            costs[title].cpu_ns / 1e6,
            len(costs[title].threads),
            updates[title],
            helpers[title],
            server.report.get("bytes_read"),
            server.report.get("tracker"),
        )
        for title, (where, server) in shown.items()
    ]
