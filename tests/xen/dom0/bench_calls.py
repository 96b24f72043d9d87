"""Cost of one call to the hypervisor, made directly through `vramtap.xen.DeviceModel`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vramtap.xen.devicemodel import DeviceModel
from xen.dom0.bench_viewer import Watching

if TYPE_CHECKING:
    from collections.abc import Callable

    from xen.dom0.driver import BootSectorGuest

PAGES: Final = (75, 768, 4096)
"""Pages of 320x240 and 1024x768 at 32 bits per pixel, and of all 16 MiB."""
BEGINNINGS: Final = 50
EXPENSIVE: Final = 60
"""Most shots where the guest writes all 4,096 pages before each shot, because it faults at every page."""
PACE_HZ: Final = 60
SPUN_S: Final = 1.5
SPUN_ROUNDS: Final = 2
_PAGE: Final = 4096


class _Log:
    """The log of one domain, read without a tracker."""

    def __init__(self, machine: BootSectorGuest) -> None:
        self.model = DeviceModel()
        self.domid, self.first = machine.domid, machine.lfb_gfn
        self.bitmap = np.zeros(_PAGE, dtype=np.uint8)

    def ask(self, pages: int, first: int = 0) -> float:
        """Make one call and return its duration, ms."""
        bits = self.bitmap[: (pages + 7) // 8]
        bits[:] = 0
        began = time.perf_counter()
        self.told = self.model.track_dirty_vram(self.domid, self.first + first, pages, bits)
        return (time.perf_counter() - began) * 1000

    def dirty(self) -> int:
        return int(np.unpackbits(self.bitmap).sum())

    def close(self) -> None:
        self.model.stop_dirty_vram(self.domid)
        self.model.close()


def costs(machine: BootSectorGuest, hap: bool, shots: int) -> list[dict[str, Any]]:
    """Measure calls by the number of pages and by the writes before them, ms."""
    rows: list[dict[str, Any]] = []
    log = _Log(machine)
    machine.spin(True)
    value = 0

    def one(pages: int) -> None:
        machine.fill(pages // 2 * _PAGE, 1, value)

    def each(pages: int) -> None:
        machine.strided(0, pages, value, _PAGE)

    writes: tuple[tuple[str, Callable[[int], None] | None, int], ...] = (
        ("none", None, 0), ("one", one, 1), ("all", each, -1),
    )  # fmt: skip
    try:
        for pages in PAGES:
            begun, moved = [], []
            for turn in range(BEGINNINGS):
                log.model.stop_dirty_vram(log.domid)
                begun.append(log.ask(pages))
                moved.append(log.ask(pages, 1 + turn % 2))
            rows.append({"hap": hap, "pages": pages, "written": "first call", "ms": begun})
            rows.append({"hap": hap, "pages": pages, "written": "after another range", "ms": moved})
            for name, write, expected in writes:
                log.ask(pages)
                log.ask(pages)
                took, wrong = [], 0
                for _ in range(min(shots, EXPENSIVE) if expected < 0 and pages > 1000 else shots):
                    value += 1
                    if write is not None:
                        write(pages)
                    took.append(log.ask(pages))
                    wrong += log.dirty() != (pages if expected < 0 else expected)
                rows.append({"hap": hap, "pages": pages, "written": name, "ms": took, "wrong": wrong})
    finally:
        machine.spin(False)
        log.close()
    return rows


def pace(machine: BootSectorGuest, hap: bool) -> list[dict[str, Any]]:
    """Measure the guest's idle loop, rounds a second, while dom0 sleeps, wakes up or calls."""
    log = _Log(machine)
    machine.spin(True)
    rows: dict[str, list[float]] = {"nothing": [], "wakes": []}
    rows |= {f"reads {pages}": [] for pages in PAGES}

    def spun(act: Callable[[], object] | None) -> float:
        began, count = time.monotonic(), machine.page.heartbeat
        if act is None:
            time.sleep(SPUN_S)
        else:
            for turn in range(1, int(SPUN_S * PACE_HZ) + 1):
                act()
                time.sleep(max(0.0, began + turn / PACE_HZ - time.monotonic()))
        return (machine.page.heartbeat - count) / (time.monotonic() - began)

    try:
        for _ in range(SPUN_ROUNDS):
            rows["nothing"].append(spun(None))
            rows["wakes"].append(spun(lambda: None))
            for pages in PAGES:
                log.ask(pages)
                rows[f"reads {pages}"].append(spun(lambda pages=pages: log.ask(pages)))  # type: ignore[misc]
    finally:
        machine.spin(False)
        log.close()
    return [{"hap": hap, "dom0": name, "rounds_per_s": rates} for name, rates in rows.items()]


def neighbour(
    machine: BootSectorGuest, hap: bool, port: int, idle_s: float, busy_s: float
) -> list[dict[str, Any]]:
    """Measure how often QEMU itself makes the call, with a client of its own VNC server.

    Xen keeps one range per domain. After a call of QEMU for its range, the next call here starts tracking
    anew, and its answer shows that. The calls here are for one page, and more frequent than QEMU's.
    """
    log = _Log(machine)
    rows = []

    def begun() -> bool:
        """Return whether QEMU has made a call since the last one here. No guest writes the page."""
        log.ask(1, 4000)
        return not log.told or bool(log.bitmap[0])

    def listen(seconds: float, draw: Callable[[int], object] | None) -> list[float]:
        moments, began, turn = [], time.monotonic(), 0
        begun()
        while (now_s := time.monotonic()) < began + seconds:
            if begun():
                moments.append(now_s - began)
            if draw is not None and turn % 4 == 0:
                draw(turn)
            turn += 1
            time.sleep(0.01)
        return moments

    try:
        rows.append({"client": "none", "s": busy_s, "at_s": listen(busy_s, None)})
        watching = Watching(port)
        try:
            time.sleep(1.0)
            rows.append({"client": "still", "s": idle_s, "at_s": listen(idle_s, None)})
            with machine.batch():
                rows.append({
                    "client": "video", "s": busy_s,
                    "at_s": listen(busy_s, lambda turn: machine.fill(0, 10_000, turn)),
                })  # fmt: skip
        finally:
            watching.close()
    finally:
        log.close()
    return [{"hap": hap, **row} for row in rows]
