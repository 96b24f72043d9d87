"""`python -m benchmarks`: run all comparisons, print the tables, keep the figures as JSON.

With --readme the tables between the markers in README.md are replaced by what was just measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from benchmarks import first_update, idle
from vramtap.bench.trackers import ROUNDS, TRACKERS, Cost, measure
from vramtap.cli.bench import as_markdown
from vramtap.machine.workloads import MEASURED

README: Final = Path(__file__).resolve().parent.parent / "README.md"
_SHOTS: Final = 15
_IDLE_S: Final = 20.0
_STRETCH_S: Final = 30.0

Update = Callable[[str], None]


def main() -> int:
    """Measure and report; exit status 0 when everything ran."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--part", action="append", choices=list(PARTS), help="measure this one (default all)")
    parser.add_argument("--shots", type=int, default=_SHOTS, help=f"updates measured (default {_SHOTS})")
    parser.add_argument("--idle", type=float, default=_IDLE_S, help="seconds without change before each")
    parser.add_argument("--stretch", type=float, default=_STRETCH_S, help="seconds of idling measured")
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, help=f"turns of each tracker (default {ROUNDS})"
    )
    parser.add_argument("--readme", action="store_true", help="write the tables into README.md")
    parser.add_argument("-o", "--output", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    console = Console(stderr=True)
    found: dict[str, Any] = {}
    for name in options.part or PARTS:
        run, table = PARTS[name]
        load = os.getloadavg()[1]
        with console.status("starting") as status:
            figures = run(options, status.update)
        figures["load"] = [round(load, 1), round(os.getloadavg()[1], 1)]
        figures["machine"] = f"{_cpu()}, Linux {platform.release()}"
        figures["date"] = datetime.now(UTC).date().isoformat()
        found[name] = figures
        text = f"{_when(figures)}\n{table(figures)}\n"
        print(text)
        if options.readme:
            _write(name, text)
    if options.output:
        options.output.write_text(json.dumps(found, indent=2) + "\n")
    return 0


def _viewers(options: argparse.Namespace, update: Update) -> dict[str, Any]:
    """The first update after a while without change, and what that while costs, beside other servers."""
    return {
        "idle_s": options.idle,
        "first_update_ms": {
            "QEMU guest": first_update.on_qemu(options.shots, options.idle, update),
            "Xvfb": first_update.on_xvfb(options.shots, options.idle, update),
        },
        "idle": {
            "QEMU guest": _plain(idle.on_qemu(options.stretch, update)),
            "Xvfb": _plain(idle.on_xvfb(options.stretch, update)),
        },
    }


def _viewers_table(figures: dict[str, Any]) -> str:
    lines = [
        "One run, Raw encoding, all on the same machine.",
        "",
        f"| first update after {figures['idle_s']:.0f} s without change, ms | median | min | max | shots |",
        "|---|---|---|---|---|",
    ]
    for where, servers in figures["first_update_ms"].items():
        for name, values in servers.items():
            middle = statistics.median(values)
            lines.append(
                f"| {where}: {name} | {middle:.1f} | {min(values):.1f} | {max(values):.1f} | {len(values)} |"
            )
    lines += [
        "",
        "| idle with a viewer connected | CPU ms/s | wake-ups/s | bytes of the target read |",
        "|---|---|---|---|",
    ]
    for where, servers in figures["idle"].items():
        for name, cost in servers.items():
            read = "does not tell" if cost["bytes_read"] is None else str(cost["bytes_read"])
            lines.append(f"| {where}: {name} | {cost['cpu_ms_s']:.1f} | {cost['wakeups_s']:.0f} | {read} |")
    return "\n".join(lines)


def _trackers(options: argparse.Namespace, update: Update) -> dict[str, Any]:
    """What each tracker costs on the embedded machine's workloads."""
    costs = measure(MEASURED, TRACKERS, rounds=options.rounds, progress=update)
    return {"costs": [asdict(cost) for cost in costs]}


def _trackers_table(figures: dict[str, Any]) -> str:
    return "\n" + as_markdown([Cost(**cost) for cost in figures["costs"]])


PARTS: Final[
    Mapping[
        str, tuple[Callable[[argparse.Namespace, Update], dict[str, Any]], Callable[[dict[str, Any]], str]]
    ]
] = {"viewers": (_viewers, _viewers_table), "trackers": (_trackers, _trackers_table)}


def _when(figures: dict[str, Any]) -> str:
    before, after = figures["load"]
    return (
        f"Measured {figures['date']}, {figures['machine']}; load average (5 min) of its {os.cpu_count()} "
        f"cores {before} before, {after} after."
    )


def _write(part: str, text: str) -> None:
    """Put a part's tables between its markers in the README."""
    begin, end = f"<!-- measured {part}: begin (make bench writes this) -->", f"<!-- measured {part}: end -->"
    before, _, rest = README.read_text().partition(begin)
    _, _, after = rest.partition(end)
    if not after:
        raise SystemExit(f"README.md lacks the line {begin} or {end}")
    README.write_text(f"{before}{begin}\n{text}{end}{after}")


def _plain(found: dict[str, idle.Idle]) -> dict[str, dict[str, object]]:
    return {name: asdict(cost) for name, cost in found.items()}


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    sys.exit(main())
