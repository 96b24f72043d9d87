"""What a server costs while a viewer is connected and nothing changes: wake-ups and CPU, helpers included.

All are started together and measured over the same stretch, each on a screen of its own, after they have come
to rest or after waiting for it has been given up.
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
"""A guest that draws nothing and has no timer."""


@dataclass(frozen=True)
class Idle:
    """Over one measured stretch, a viewer connected, nothing drawn.

    Args:
        where: What the server shows.
        server: Its name.
        rest_s: How long it took to come to rest, seconds; None if it did not.
        voluntary: Context switches in the stretch because a thread waited, all processes and threads.
        involuntary: Context switches in the stretch because another process was let run.
        cpu_ms: CPU time in the stretch, all processes and threads, milliseconds.
        threads_changed: How many threads began or ended in the stretch.
        updates: Sent in the stretch: there should be none.
        helpers: What the processes are called that belong to it.
        bytes_read: Of the target's memory from the beginning on; None for servers that do not tell.
        tracker: Of ours.
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
    """Ours on a real guest, on Xvfb and on the embedded machine, and the peers on Xvfb beside it.

    Args:
        stretch_s: Measured.
        tracker: Ours, as `--tracker` names it.
        progress: Told what is going on.
        limit_s: How long coming to rest is waited for.
    """
    with contextlib.ExitStack() as stack:
        guest = stack.enter_context(Guest())
        guest.quiet()
        shown: dict[str, tuple[str, Server]] = {}
        with contextlib.ExitStack() as running:
            for where, url in (("QEMU guest", guest.url), ("embedded machine", DEMO)):
                server = running.enter_context(servers.vramtap(url, "--tracker", tracker))
                shown[f"{where}: {server.name}"] = where, server
            for name in (servers.VRAMTAP, servers.X11VNC, servers.X0VNCSERVER):
                xvfb = stack.enter_context(Xvfb(Framebuffer.PLAIN))
                server = running.enter_context(servers.on_xvfb(name, xvfb, tracker))
                shown[f"Xvfb: {name}"] = "Xvfb", server
            viewers = {
                title: running.enter_context(Waiting([server])) for title, (_, server) in shown.items()
            }
            everybody = list(viewers.values())
            progress(f"waiting up to {limit_s:.0f} s until they come to rest")
            pids = {title: server.pid for title, (_, server) in shown.items()}

            def serve(pause_s: float) -> None:
                drain(everybody, pause_s)

            rests = wait_for_rest(pids, serve, limit_s=limit_s)
            families = {title: family(pid) for title, pid in pids.items()}
            before = {title: spent(processes) for title, processes in families.items()}
            progress(f"idle for {stretch_s:.0f} s")
            updates = dict(zip(viewers, drain(everybody, stretch_s), strict=True))
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
