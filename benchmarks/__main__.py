"""`python -m benchmarks`: run all comparisons, print the tables, keep the figures as JSON.

With --readme the tables between the markers in README.md are replaced by what was just measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from rich.console import Console

from benchmarks import costs, first_update, held, idle, tables, video
from benchmarks.rest import REST_LIMIT_S
from vramtap.cli._bench_trackers import BLIND, ROUNDS, TRACKERS, measure
from vramtap.machine.workloads import MEASURED

TRACES: Final = Path(__file__).resolve().parent.parent / "tests" / "traces"
README: Final = Path(__file__).resolve().parent.parent / "README.md"
_FOLLOWING: Final = ("compare", "log", "hybrid")
"""Trackers of other processes' memory: always the one, always the other, and choosing."""
_VIDEO_SLICE_S: Final = 2.0
"""Of the embedded machine at 1080p: about thirty frames under Unicorn."""

Update = Callable[[str], None]
Figures = dict[str, Any]


class Part(NamedTuple):
    """One table of the README."""

    run: Callable[[argparse.Namespace, Update], Figures]
    table: Callable[[Mapping[str, Any]], str]


def main() -> int:
    """Measure and report; exit status 0 when everything ran."""
    options = _options()
    parts = options.part or list(PARTS)
    if options.readme:
        for name in parts:
            _around(name)  # a marker that is missing is better said now than in an hour
    console = Console(stderr=True)
    found: Figures = {}
    for name in parts:
        load = os.getloadavg()[1]
        with console.status(f"{name}: starting") as status:

            def update(what: str, name: str = name) -> None:
                status.update(f"{name}: {what}")

            figures = PARTS[name].run(options, update)
        figures["load"] = [round(load, 1), round(os.getloadavg()[1], 1)]
        figures["machine"] = f"{_cpu()}, Linux {platform.release()}"
        figures["date"] = datetime.now(UTC).date().isoformat()
        found[name] = figures
        if options.output:  # after each part: what was measured stays, whatever becomes of the next
            options.output.write_text(json.dumps(found, indent=2) + "\n")
        text = f"{_when(figures)}\n{PARTS[name].table(figures)}\n"
        print(text, flush=True)
        if options.readme:
            _write(name, text)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("--part", action="append", choices=list(PARTS), help="measure this one (default all)")
    add("--tracker", default="auto", help="ours, in viewers and idle (default auto)")
    add("--shots", type=int, default=200, help="first updates and held writers measured (default 200)")
    add("--idle", type=float, default=20.0, help="viewers: seconds without change before each (default 20)")
    add("--lanes", type=int, default=8, help="viewers, held: screens side by side (default 8)")
    add("--guests", type=int, default=6, help="viewers: guests side by side (default 6)")
    add("--stretch", type=float, default=60.0, help="idle: seconds measured (default 60)")
    add("--rest", type=float, default=REST_LIMIT_S, help="idle: seconds waited for rest at most")
    add("--silence", type=float, default=3.0, help="held: seconds before each shot, at least (default 3)")
    add("--stopped", type=int, default=50, help="held: shots with a process stopped (default 50)")
    add("--seconds", type=float, default=20.0, help="costs: of each recording (default 20)")
    add("--rounds", type=int, default=ROUNDS, help=f"trackers, video: turns of each (default {ROUNDS})")
    add("--turn", type=float, default=5.0, help="video: seconds a turn (default 5)")
    add("--readme", action="store_true", help="write the tables into README.md")
    add("-o", "--output", type=Path, help="write the figures as JSON")
    return parser.parse_args()


def _viewers(options: argparse.Namespace, update: Update) -> Figures:
    """The first update after a while without change, beside other servers."""
    updates, own_ms = first_update.measure(
        options.shots, options.idle, options.lanes, options.guests, options.tracker, update
    )
    return {
        "idle_s": options.idle,
        "side_by_side": options.lanes,
        "guests": options.guests,
        "own_ms": own_ms,
        "updates": [asdict(row) for row in updates],
    }


def _idle(options: argparse.Namespace, update: Update) -> Figures:
    """What that while costs."""
    rows = idle.measure(options.stretch, options.tracker, update, options.rest)
    return {"stretch_s": options.stretch, "limit_s": options.rest, "idle": [asdict(row) for row in rows]}


def _held(options: argparse.Namespace, update: Update) -> Figures:
    """How long a writer stands still."""
    names = ["log", "hybrid"]
    rows = held.measure(options.shots, options.stopped, options.silence, options.lanes, names, update)
    rows_of = [asdict(row) for row in rows]
    return {"idle_s": options.silence, "side_by_side": options.lanes, "held": rows_of}


def _policies(options: argparse.Namespace, update: Update) -> Figures:
    """What each policy costs on recorded traces by the model, beside the cheapest schedule."""
    update("replaying")
    traces = sorted(map(str, TRACES.glob("*/*.parquet")))
    program = Path(sys.executable).parent / "vramtap"
    done = subprocess.run(
        [program, "trace", "replay", "--markdown", *traces], check=True, stdout=subprocess.PIPE, text=True
    )
    return {"markdown": done.stdout}


def _costs(options: argparse.Namespace, update: Update) -> Figures:
    """What following costs writer and tap on recorded traces."""
    traces = list(costs.recorded().values())
    rows = costs.measure(traces, _FOLLOWING, options.seconds, update)
    return {"seconds": options.seconds, "costs": [asdict(row) for row in rows]}


def _trackers(options: argparse.Namespace, update: Update) -> Figures:
    """What each tracker costs on the embedded machine's workloads."""
    rows = measure(MEASURED, TRACKERS, rounds=options.rounds, progress=update)
    return {"costs": [asdict(row) for row in rows]}


def _video(options: argparse.Namespace, update: Update) -> Figures:
    """What a full-screen video loses."""
    rows = video.measure(_FOLLOWING, options.rounds, options.turn, update)
    inside = measure(
        ["video-full"],
        [BLIND, *_FOLLOWING],
        mode="{}x{}".format(*video.SIZE),
        rounds=options.rounds,
        slice_s=_VIDEO_SLICE_S,
        progress=update,
    )
    return {"video": [asdict(row) for row in rows], "embedded": [asdict(row) for row in inside]}


PARTS: Final[Mapping[str, Part]] = {
    "viewers": Part(_viewers, tables.viewers),
    "idle": Part(_idle, tables.idle),
    "held": Part(_held, tables.held),
    "policies": Part(_policies, lambda figures: f"\n{figures['markdown'].strip()}"),
    "costs": Part(_costs, tables.costs),
    "trackers": Part(_trackers, tables.trackers),
    "video": Part(_video, tables.video),
}


def _when(figures: Figures) -> str:
    before, after = figures["load"]
    return (
        f"Measured {figures['date']}, {figures['machine']}; load average (5 min) of its {os.cpu_count()} "
        f"cores {before} before, {after} after."
    )


def _write(part: str, text: str) -> None:
    """Put a part's tables between its markers in the README."""
    before, after = _around(part)
    README.write_text(f"{before}{text}{after}")


def _around(part: str) -> tuple[str, str]:
    """What the README says before and after a part's tables, its markers included."""
    begin, end = f"<!-- measured {part}: begin (make bench writes this) -->", f"<!-- measured {part}: end -->"
    before, _, rest = README.read_text().partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"README.md lacks the line {begin} or {end}")
    return f"{before}{begin}\n", f"{end}{after}"


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    sys.exit(main())
