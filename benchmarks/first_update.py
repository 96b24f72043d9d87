"""How long the first update takes after a while without change, for vramtap and other servers in one run.

On Xvfb the time starts with the drawing request. On a QEMU guest it starts with the write to the video RAM.
The time that the guest needs from the command to this write is reported separately. A thread polls the video
RAM to see the write. To show whether this thread changes the result, every `UNWATCHED_EVERY`th shot is taken
without it; both kinds of shots are also timed from the command to the update.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple

from benchmarks import lanes, servers
from benchmarks.lanes import Lane, Shot
from benchmarks.rest import wakeups
from benchmarks.watching import write_seen
from support.testbed.errors import TestbedError
from support.testbed.guest import Guest
from support.testbed.xclient import XClient
from support.testbed.xvfb import Framebuffer, Xvfb
from vramtap.targets.qemu.target import QemuTarget

Progress = Callable[[str], None]

QEMU: Final = "QEMU guest"
XVFB: Final = "Xvfb"
UNWATCHED_EVERY: Final = 5
_X, _Y = 500, 300
_ROW_PIXELS: Final = 1024
_XVFB_SERVERS: Final = ("vramtap", "x11vnc", "x0vncserver")


class Changed(NamedTuple):
    """Times of one change of a screen, on the monotonic clock.

    Args:
        asked_s: Just before the change was requested.
        written_s: When the write was seen in memory; None if no thread watched for it.
    """

    asked_s: float
    written_s: float | None


@dataclass(frozen=True)
class Updates:
    """First updates of one server.

    Args:
        where: Kind of target the server shows.
        server: Name of the server.
        ms: Time from the write (Xvfb: from the drawing request) to the first byte of the update, of each
            shot, milliseconds.
        asked_ms: Time from the command to the update, of each shot whose write was watched, milliseconds.
        unwatched_ms: The same, of each shot whose write was not watched.
        lost: Number of shots without an update within `watching.SHOT_S`.
        at_rest: Number of shots before which the server did not wake up; None for servers that are not
            observed.
    """

    where: str
    server: str
    ms: list[float]
    asked_ms: list[float]
    unwatched_ms: list[float]
    lost: int
    at_rest: int | None


def measure(
    shots: int, idle_s: float, side_by_side: int, guests: int, tracker: str, progress: Progress
) -> tuple[list[Updates], list[float]]:
    """Measure vramtap and QEMU's own VNC server on the same guests, and vramtap and its peers on Xvfb.

    Args:
        shots: Shots of each server; on guests, shots whose write is watched.
        idle_s: Time without any change before each shot, seconds.
        side_by_side: Number of screens of each server on Xvfb.
        guests: Number of guests under QEMU.
        tracker: vramtap's tracker, named as in `--tracker`.
        progress: Called with what is going on.

    Returns:
        The updates, and for each watched shot the guest's time from the command to the write, milliseconds.
    """
    counts = dict.fromkeys([f"{XVFB} {name}" for name in _XVFB_SERVERS], shots)
    with contextlib.ExitStack() as stack:
        workers = stack.enter_context(ThreadPoolExecutor(max_workers=4, thread_name_prefix="shots"))
        found = _on_xvfb(stack, side_by_side, tracker, progress)
        if guests:
            found += _on_qemu(stack, guests, tracker, workers, progress)
            counts[QEMU] = shots + shots // (UNWATCHED_EVERY - 1)
        taken = lanes.run(found, counts, idle_s, progress)
    own_ms = [
        (changed.written_s - changed.asked_s) * 1000
        for changed in (shot.result.result() for shot in taken)
        if changed.written_s is not None
    ]
    names = {lane.kind: [server.name for server in lane.servers] for lane in found}
    return [
        _updates(kind, name, [shot for shot in taken if shot.kind == kind])
        for kind in counts
        for name in names[kind]
    ], own_ms


def _updates(kind: str, name: str, shots: list[Shot[Changed]]) -> Updates:
    where = QEMU if kind == QEMU else XVFB
    from_write: list[float] = []
    watched: list[float] = []
    unwatched: list[float] = []
    for shot in shots:
        if name not in shot.arrived_s:
            continue
        changed, at_s = shot.result.result(), shot.arrived_s[name]
        asked_ms = (at_s - changed.asked_s) * 1000
        if where == XVFB:
            from_write.append(asked_ms)
        elif changed.written_s is None:
            unwatched.append(asked_ms)
        else:
            watched.append(asked_ms)
            from_write.append((at_s - changed.written_s) * 1000)
    lost = sum(name not in shot.arrived_s for shot in shots)
    at_rest = sum(bool(shot.rested) for shot in shots) if name == servers.VRAMTAP else None
    return Updates(where, name, from_write, watched, unwatched, lost, at_rest)


def _on_qemu(
    stack: contextlib.ExitStack, count: int, tracker: str, workers: ThreadPoolExecutor, progress: Progress
) -> list[Lane[Changed]]:
    """Start guests, each shown by vramtap and by QEMU's own VNC server."""
    guests = []
    for _ in range(count):
        guest = Guest(("-vnc", "127.0.0.1:0,to=99"))
        guest.start()
        stack.callback(guest.stop)
        guests.append(guest)
    found = []
    for index, guest in enumerate(guests):
        progress(f"guest {index + 1} of {count} boots")
        guest.wait_ready()
        guest.quiet()
        pid, vram = asyncio.run(_vram(guest))
        own = servers.qemu_vnc(guest)
        ours = stack.enter_context(servers.vramtap(guest.url, "--tracker", tracker))
        fire = partial(_draw_in_guest, workers, guest, pid, vram + (_Y * _ROW_PIXELS + _X) * 4)
        found.append(Lane(QEMU, [ours, own], fire, partial(wakeups, ours.pid)))
    return found


async def _vram(guest: Guest) -> tuple[int, int]:
    """Return QEMU's pid and the address of the guest's video RAM in it; release the monitor."""
    async with QemuTarget(str(guest.qmp_path)) as target:
        return target.monitor.pid, target.extent.address


def _draw_in_guest(
    workers: ThreadPoolExecutor, guest: Guest, pid: int, address: int, number: int
) -> Future[Changed]:
    command = f"fbtool pixel {_X} {_Y} {_colour(number):#x}"
    watched = number % UNWATCHED_EVERY != UNWATCHED_EVERY - 1

    def draw() -> Changed:
        asked_s = time.monotonic()
        if not watched:
            guest.run(command)
            return Changed(asked_s, None)
        with write_seen(pid, address) as seen:
            asked_s = time.monotonic()
            guest.run(command)
        if not seen:
            raise TestbedError(f"guest: {command}: no write to the video RAM was seen")
        return Changed(asked_s, seen[0])

    return workers.submit(draw)


def _on_xvfb(
    stack: contextlib.ExitStack, side_by_side: int, tracker: str, progress: Progress
) -> list[Lane[Changed]]:
    """Start screens, each with one server."""
    found = []
    for name in _XVFB_SERVERS:
        for index in range(side_by_side):
            progress(f"Xvfb: {name} {index + 1} of {side_by_side} starts")
            xvfb = stack.enter_context(Xvfb(Framebuffer.PLAIN))
            client = stack.enter_context(XClient(xvfb.display))
            server = stack.enter_context(servers.on_xvfb(name, xvfb, tracker))
            observed = partial(wakeups, server.pid) if name == servers.VRAMTAP else None
            found.append(Lane(f"{XVFB} {name}", [server], partial(_draw_on_x, client), observed))
    return found


def _draw_on_x(client: XClient, number: int) -> Future[Changed]:
    done: Future[Changed] = Future()
    asked_s = time.monotonic()
    client.fill(_X, _Y, 10, 10, _colour(number))
    done.set_result(Changed(asked_s, None))
    return done


def _colour(number: int) -> int:
    """Return a colour that no other shot has: an odd factor permutes the 24-bit numbers."""
    return (number * 0x9E3779 + 0x00FF00) & 0xFFFFFF
