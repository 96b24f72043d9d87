"""`python -m benchmarks`: run the comparisons, print their tables, and keep the figures as JSON.

With --write the tables between the markers in docs/performance.md and README.md are replaced by the new ones.
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
from benchmarks.documents import Documents, MissingMarker
from benchmarks.rest import REST_LIMIT_S
from vramtap.cli._bench_trackers import BLIND, ROUNDS, TRACKERS, measure
from vramtap.machine.workloads import MEASURED

TRACES: Final = Path(__file__).resolve().parent.parent / "tests" / "traces"
_FOLLOWING: Final = ("compare", "log", "hybrid")
"""Trackers of another process's memory: always compare, always log, and choose per tile."""
_VIDEO_SLICE_S: Final = 2.0
"""Length of a turn of the built-in VM at 1080p, seconds: about thirty frames under Unicorn."""

Progress = Callable[[str], None]
Figures = dict[str, Any]


class Part(NamedTuple):
    """One comparison.

    Attributes:
        run: Measures, and returns the figures.
        table: Renders the figures as the full table.
        short: Renders the figures as the README's table; None if the README has none.
    """

    run: Callable[[argparse.Namespace, Progress], Figures]
    table: Callable[[Mapping[str, Any]], str]
    short: Callable[[Mapping[str, Any]], str] | None = None


def main(documents: Documents | None = None) -> int:
    """Measure and report.

    Args:
        documents: Where --write puts the tables; by default this repository's documents.

    Returns:
        Exit status: 0 done, 1 if a table has no place in the documents.
    """
    options = _options()
    documents = documents or Documents()
    parts = options.part or list(PARTS)
    found: Figures = {}
    try:
        if options.write:
            # A missing marker is reported now and not after an hour of measuring.
            for name in parts:
                documents.check(name)
        for name in parts:
            found[name] = _measured(name, options)
            if options.output:
                # After each part, so that the figures survive a failure of the next part.
                options.output.write_text(json.dumps(found, indent=2) + "\n")
            _report(name, found[name], documents if options.write else None)
    except MissingMarker as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("--part", action="append", choices=list(PARTS), help="measure only this part (default all)")
    add("--tracker", default="auto", help="viewers, idle: vramtap's tracker (default auto)")
    add("--shots", type=int, default=200, help="viewers, held: changes measured per server (default 200)")
    add("--idle", type=float, default=20.0, help="viewers: seconds without change before each (default 20)")
    add("--lanes", type=int, default=8, help="viewers, held: screens side by side (default 8)")
    add("--guests", type=int, default=6, help="viewers: QEMU guests side by side (default 6)")
    add("--stretch", type=float, default=60.0, help="idle: seconds measured (default 60)")
    add(
        "--rest",
        type=float,
        default=REST_LIMIT_S,
        help=f"idle: seconds to wait for all servers to come to rest, at most (default {REST_LIMIT_S:.0f})",
    )
    add("--silence", type=float, default=3.0, help="held: seconds of silence before each shot (default 3)")
    add("--stopped", type=int, default=50, help="held: shots with a process stopped (default 50)")
    add("--seconds", type=float, default=20.0, help="costs: seconds of each recording (default 20)")
    add("--rounds", type=int, default=ROUNDS, help=f"trackers, video: turns of each (default {ROUNDS})")
    add("--turn", type=float, default=5.0, help="video: seconds of a turn (default 5)")
    add("--write", action="store_true", help="write the tables into docs/performance.md and README.md")
    add("-o", "--output", type=Path, metavar="FILE", help="write the figures to FILE as JSON")
    return parser.parse_args()


def _measured(name: str, options: argparse.Namespace) -> Figures:
    """Run one part; return its figures, with the date, the machine and its load."""
    load = os.getloadavg()[1]
    with Console(stderr=True).status(f"{name}: starting") as status:
        figures = PARTS[name].run(options, lambda what: status.update(f"{name}: {what}"))
    figures["load"] = [round(load, 1), round(os.getloadavg()[1], 1)]
    figures["machine"] = f"{_cpu()}, Linux {platform.release()}"
    figures["date"] = datetime.now(UTC).date().isoformat()
    return figures


def _report(name: str, figures: Figures, documents: Documents | None) -> None:
    """Print one part's table, and write it into the documents, if any."""
    part, when = PARTS[name], _when(figures)
    text = f"{when}\n{part.table(figures)}\n"
    print(text, flush=True)
    if documents is not None:
        documents.write(name, text, f"{when}\n\n{part.short(figures)}\n" if part.short else "")


def _viewers(options: argparse.Namespace, progress: Progress) -> Figures:
    """Measure the first update after a while without change, vramtap's and other servers'."""
    updates, own_ms = first_update.measure(
        options.shots, options.idle, options.lanes, options.guests, options.tracker, progress
    )
    return {
        "idle_s": options.idle,
        "side_by_side": options.lanes,
        "guests": options.guests,
        "own_ms": own_ms,
        "updates": [asdict(row) for row in updates],
    }


def _idle(options: argparse.Namespace, progress: Progress) -> Figures:
    """Measure what a server costs while nothing changes."""
    rows = idle.measure(options.stretch, options.tracker, progress, options.rest)
    return {"stretch_s": options.stretch, "limit_s": options.rest, "idle": [asdict(row) for row in rows]}


def _held(options: argparse.Namespace, progress: Progress) -> Figures:
    """Measure how long a writer is held by a tracker."""
    names = ["log", "hybrid"]
    rows = held.measure(options.shots, options.stopped, options.silence, options.lanes, names, progress)
    rows_of = [asdict(row) for row in rows]
    return {"idle_s": options.silence, "side_by_side": options.lanes, "held": rows_of}


def _policies(options: argparse.Namespace, progress: Progress) -> Figures:
    """Compute what each policy costs on recorded traces by the model, against the cheapest schedule."""
    progress("replaying")
    traces = sorted(map(str, TRACES.glob("*/*.parquet")))
    program = Path(sys.executable).parent / "vramtap"
    done = subprocess.run(
        [program, "trace", "replay", "--markdown", *traces], check=True, stdout=subprocess.PIPE, text=True
    )
    return {"markdown": done.stdout}


def _costs(options: argparse.Namespace, progress: Progress) -> Figures:
    """Measure what tracking costs the writer and the tap on recorded traces."""
    traces = list(costs.recorded().values())
    rows = costs.measure(traces, _FOLLOWING, options.seconds, progress)
    return {"seconds": options.seconds, "costs": [asdict(row) for row in rows]}


def _trackers(options: argparse.Namespace, progress: Progress) -> Figures:
    """Measure what each tracker costs on the workloads of the built-in VM."""
    rows = measure(MEASURED, TRACKERS, rounds=options.rounds, progress=progress)
    return {"costs": [asdict(row) for row in rows]}


def _video(options: argparse.Namespace, progress: Progress) -> Figures:
    """Measure what a full-screen video loses to each tracker."""
    rows = video.measure(_FOLLOWING, options.rounds, options.turn, progress)
    inside = measure(
        ["video-full"],
        [BLIND, *_FOLLOWING],
        mode="{}x{}".format(*video.SIZE),
        rounds=options.rounds,
        slice_s=_VIDEO_SLICE_S,
        progress=progress,
    )
    return {"video": [asdict(row) for row in rows], "machine_video": [asdict(row) for row in inside]}


PARTS: Final[Mapping[str, Part]] = {
    "viewers": Part(_viewers, tables.viewers, tables.viewers_short),
    "idle": Part(_idle, tables.idle),
    "held": Part(_held, tables.held),
    "policies": Part(_policies, lambda figures: f"\n{figures['markdown'].strip()}"),
    "costs": Part(_costs, tables.costs),
    "trackers": Part(_trackers, tables.trackers),
    "video": Part(_video, tables.video),
}


def _when(figures: Figures) -> str:
    """Return the line that says when and where the figures were measured."""
    before, after = figures["load"]
    return (
        f"Measured {figures['date']}, {figures['machine']}; load average (5 min) of its {os.cpu_count()} "
        f"cores {before} before, {after} after."
    )


def _cpu() -> str:
    """Return the CPU's model name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    sys.exit(main())
