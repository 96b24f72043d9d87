"""Measures in dom0 the cost of vramtap and of QEMU's own VNC server; `python3 -m xen.dom0.bench`.

One start of one emulated host measures both paging modes in parallel. `xen.bench_table` renders the results.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from xen.dom0 import bench_calls
from xen.dom0.bench_busy import busy
from xen.dom0.bench_screens import IDLE_S, UNSETTLED_S, Domain, Plan, Station
from xen.dom0.driver_domain import xl
from xen.testbed import HAP

if TYPE_CHECKING:
    from collections.abc import Sequence

SMALL, LARGE = (400, 300), (1024, 768)
PARTS: Final = ("calls", "pace", "neighbour", "busy", "small", "large")
CALLS, SHOTS = 200, 15
LATEST_S: Final = 10.0
"""Time after which an unseen shot counts as lost, s."""
NEIGHBOUR_S: Final = (21.0, 7.0)
"""Time for which QEMU's calls are counted: with a still screen, and otherwise, s."""
BUSY_S: Final = (5.0, 1.0)
"""Duration of a film, and of filling at full speed, s."""
SLOW_MS: Final = 500
"""The `--latency` to measure in addition to the default."""


def speed_ms() -> float:
    """Time a fixed piece of work in Python, to show the current speed of the emulated processor, ms."""
    began = time.perf_counter()
    sum(number * number for number in range(50_000))
    return (time.perf_counter() - began) * 1000


def shots(stations: Sequence[Station], rounds: int) -> None:
    """Let each station's guest draw `rounds` times, one after the other, after `IDLE_S` without a change."""
    chance = random.Random(rounds)
    order = chance.sample(stations, len(stations))
    slot_s = IDLE_S / len(stations)
    for _ in range(rounds):
        for station in order:
            last_s = max(each.shot_s for each in stations)
            _wait_until(max(station.shot_s + IDLE_S, last_s + slot_s), stations)
            station.gather()
            station.shoot(chance)
    for station in order:
        station.gather(LATEST_S)


def _wait_until(moment_s: float, stations: Sequence[Station]) -> None:
    """Sleep until then, and record the start of each station's idle time."""
    while (left_s := moment_s - time.monotonic()) > 0:
        for station in stations:
            if not station.noted and time.monotonic() - station.shot_s >= UNSETTLED_S:
                station.note()
        time.sleep(min(left_s, 0.25))


class Bench:
    """The parts of the benchmark and their results.

    Args:
        pagings: The paging modes to measure; True is hardware-assisted.
        calls: Number of calls of each kind.
        shots: Number of shots of each station.
    """

    def __init__(self, pagings: Sequence[bool], calls: int, shots: int) -> None:
        self._pagings, self._calls, self._shots = pagings, calls, shots
        self._domains: list[Domain] = []
        self.found: dict[str, list[Any]] = {
            name: [] for name in ("calls", "pace", "neighbour", "video", "fills", "screens")
        }

    def domain(self, hap: bool, number: int) -> Domain:
        """Return a domain by mode and number. Create it when first used, because idle domains cost time."""
        of_mode = [domain for domain in self._domains if domain.hap == hap]
        while len(of_mode) <= number:
            of_mode.append(Domain(len(self._domains), hap=hap))
            self._domains.append(of_mode[-1])
        return of_mode[number]

    def close(self) -> None:
        """Destroy all domains of the benchmark."""
        for domain in self._domains:
            domain.close()

    def run(self, part: str) -> None:
        """Measure one part."""
        if part in ("small", "large"):
            self._screens(SMALL if part == "small" else LARGE)
            return
        for hap in self._pagings:
            domain = self.domain(hap, 0)
            if part == "calls":
                self.found[part] += bench_calls.costs(domain.machine, hap, self._calls)
            elif part == "pace":
                self.found[part] += bench_calls.pace(domain.machine, hap)
            elif part == "neighbour":
                port = domain.vnc_port
                self.found[part] += bench_calls.neighbour(domain.machine, hap, port, *NEIGHBOUR_S)
            else:
                for name, rows in busy(domain, SMALL, *BUSY_S).items():
                    self.found[name] += rows

    def _screens(self, size: tuple[int, int]) -> None:
        plans = [Plan(hap, size, server) for hap in self._pagings for server in ("vramtap", "qemu")]
        if size == SMALL:
            plans.append(Plan(self._pagings[0], size, "vramtap", SLOW_MS))
        taken: Counter[bool] = Counter()
        with ExitStack() as stack:
            stations = []
            for plan in plans:
                station = Station(plan, self.domain(plan.hap, taken[plan.hap]))
                taken[plan.hap] += 1
                stack.callback(station.stop)
                stations.append(station)
            shots(stations, self._shots)
        self.found["screens"] += [station.row for station in stations]


def main() -> None:
    """Measure, and write the results after each part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True, help="the file to write")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--shots", type=int, default=SHOTS)
    parser.add_argument("--calls", type=int, default=CALLS)
    arguments = parser.parse_args()
    began_s = time.monotonic()
    lines = [line.partition(":") for line in xl("info").splitlines()]
    info = {key.strip(): value.strip() for key, _, value in lines}
    host: dict[str, Any] = {
        "xen": info["xen_version"] + info["xen_extra"],
        "linux": os.uname().release,
        "processors": os.cpu_count(),
        "speed_ms": [speed_ms()],
        "idle_s": IDLE_S,
        "unsettled_s": UNSETTLED_S,
    }
    bench = Bench([mode == "1" for mode in os.environ[HAP].split()], arguments.calls, arguments.shots)
    try:
        for part in arguments.parts:
            bench.run(part)
            host["speed_ms"].append(speed_ms())
            host["took_s"] = time.monotonic() - began_s
            arguments.json.write_text(json.dumps({"host": host, **bench.found}))
            print(f"{host['took_s']:6.1f} s: {part}", flush=True)
    finally:
        bench.close()


if __name__ == "__main__":
    main()
