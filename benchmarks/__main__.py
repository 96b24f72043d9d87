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
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from benchmarks import first_update, idle

README: Final = Path(__file__).resolve().parent.parent / "README.md"
_BEGIN: Final = "<!-- measured: begin (make bench writes this) -->"
_END: Final = "<!-- measured: end -->"


def main() -> int:
    """Measure and report; exit status 0 when everything ran."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--shots", type=int, default=15, help="updates measured (default 15)")
    parser.add_argument("--idle", type=float, default=20.0, help="seconds without change before each")
    parser.add_argument("--stretch", type=float, default=30.0, help="seconds of idling measured")
    parser.add_argument("--readme", action="store_true", help="write the tables into README.md")
    parser.add_argument("-o", "--output", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    console = Console(stderr=True)
    with console.status("starting") as status:
        figures: dict[str, Any] = {
            "machine": f"{_cpu()}, Linux {platform.release()}",
            "date": datetime.now(UTC).date().isoformat(),
            "idle_s": options.idle,
            "load": [round(os.getloadavg()[1], 1)],
            "first_update_ms": {
                "QEMU guest": first_update.on_qemu(options.shots, options.idle, status.update),
                "Xvfb": first_update.on_xvfb(options.shots, options.idle, status.update),
            },
            "idle": {
                "QEMU guest": _plain(idle.on_qemu(options.stretch, status.update)),
                "Xvfb": _plain(idle.on_xvfb(options.stretch, status.update)),
            },
        }
    figures["load"].append(round(os.getloadavg()[1], 1))
    text = _tables(figures)
    print(text)
    if options.output:
        options.output.write_text(json.dumps(figures, indent=2) + "\n")
    if options.readme:
        before, _, rest = README.read_text().partition(_BEGIN)
        _, _, after = rest.partition(_END)
        if not rest or not after:
            print(f"README.md lacks the line {_BEGIN} or {_END}", file=sys.stderr)
            return 1
        README.write_text(f"{before}{_BEGIN}\n{text}{_END}{after}")
    return 0


def _plain(found: dict[str, idle.Idle]) -> dict[str, dict[str, object]]:
    return {name: asdict(cost) for name, cost in found.items()}


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _tables(figures: dict[str, Any]) -> str:
    lines = [
        f"Measured {figures['date']}, {figures['machine']}: one run, Raw encoding, all on the same machine.",
        f"Load average (5 min) of its {os.cpu_count()} cores before and after: {figures['load']}.",
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
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
