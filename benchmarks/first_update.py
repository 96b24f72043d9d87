"""How long the first update takes after a while without any change."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from benchmarks import servers
from benchmarks.watching import Waiting, settle, write_seen
from lab.guest import Guest
from lab.xclient import XClient
from lab.xvfb import Framebuffer, Xvfb
from vramtap.targets.qemu import QemuTarget

Progress = Callable[[str], None]
Latencies = dict[str, list[float]]

_X, _Y = 500, 300


def on_qemu(shots: int, idle_s: float, progress: Progress) -> Latencies:
    """Ours beside QEMU's own VNC, on one guest, the same writes.

    Args:
        shots: Single pixels written.
        idle_s: Without any change before each.
        progress: Told what is going on.

    Returns:
        Milliseconds from the write in the guest's video RAM to the first byte of the update, by server.
    """
    found: Latencies = {}
    with Guest(("-vnc", "127.0.0.1:0,to=99")) as guest:
        guest.quiet()
        pid, vram = asyncio.run(_vram(guest))
        own = servers.qemu_vnc(guest)
        with servers.vramtap(guest.url) as ours, Waiting([ours, own]) as waiting:
            for shot in range(shots):
                progress(f"QEMU guest: shot {shot + 1} of {shots}, {idle_s:.0f} s idle before each")
                settle([waiting], idle_s)
                address = vram + (_Y * 1024 + _X) * 4
                with write_seen(pid, address) as seen:
                    colour = 0x00FF00 if shot % 2 else 0xFF0000
                    guest.run(f"fbtool pixel {_X} {_Y} {colour:#x}")
                    arrived = waiting.next_updates_s()
                _note(found, arrived, seen[0])
    return found


async def _vram(guest: Guest) -> tuple[int, int]:
    """QEMU's pid and where the guest's video RAM is in it; the monitor is free again afterwards."""
    async with QemuTarget(str(guest.qmp_path)) as target:
        return target.monitor.pid, target.extent.address


def on_xvfb(shots: int, idle_s: float, progress: Progress) -> Latencies:
    """Ours, x11vnc and x0vncserver, each on an Xvfb of its own, drawn on in turn.

    All run the whole time, but only one has something to do at a time: on two cores three servers that
    wake up together would measure each other.

    Args:
        shots: Small rectangles drawn on each.
        idle_s: Without any change before each round.
        progress: Told what is going on.

    Returns:
        Milliseconds from the drawing request to the first byte of the update, by server.
    """
    found: Latencies = {}
    with contextlib.ExitStack() as stack:
        rows: list[tuple[XClient, Waiting]] = []
        for start in (servers.vramtap, servers.x11vnc, servers.x0vncserver):
            xvfb = stack.enter_context(Xvfb(Framebuffer.PLAIN))
            client = stack.enter_context(XClient(xvfb.display))
            server = stack.enter_context(start(xvfb.url if start is servers.vramtap else xvfb.display))
            rows.append((client, stack.enter_context(Waiting([server]))))
        for shot in range(shots):
            progress(f"Xvfb: shot {shot + 1} of {shots}, {idle_s:.0f} s idle before each")
            settle([waiting for _, waiting in rows], idle_s)
            for client, waiting in rows:
                began_s = time.monotonic()
                client.fill(_X, _Y, 10, 10, 0x00FF00 if shot % 2 else 0xFF0000)
                _note(found, waiting.next_updates_s(), began_s)
    return found


def _note(found: Latencies, arrived_s: dict[str, float], began_s: float) -> None:
    for name, at_s in arrived_s.items():
        found.setdefault(name, []).append((at_s - began_s) * 1000)
