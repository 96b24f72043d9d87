"""`vramtap bench`: measure on this machine, as a table, as JSON or as Markdown."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Final

import click
from rich.table import Table

from vramtap.cli._bench_trackers import BLIND, ROUNDS, SLICE_S, TRACKERS, Cost, measure
from vramtap.cli._console import print_table, progress_bar
from vramtap.machine.choose_cpu import CPU_NAMES, LOG_FORMS, CpuName, LogForm
from vramtap.machine.workloads import MEASURED, WORKLOADS
from vramtap.trackers.choose import NAMES

_PIPE_COLUMNS: Final = 120
"""Width of the table in a file or a pipe, characters."""


@click.group()
def command() -> None:
    """Measure what vramtap costs on this machine."""


@command.command()
@click.option(
    "--workload",
    "-w",
    "workloads",
    multiple=True,
    type=click.Choice(WORKLOADS),
    help="Workload of the guest; may be repeated.  [default: all but desktop and large]",
)
@click.option(
    "--tracker",
    "-t",
    "trackers",
    multiple=True,
    type=click.Choice([*NAMES[1:], BLIND]),
    help=f"Tracker to measure; may be repeated. '{BLIND}' reads the whole screen and tracks nothing.  "
    f"[default: {', '.join(TRACKERS)}]",
)
@click.option(
    "--cpu",
    type=click.Choice(CPU_NAMES),
    default="unicorn",
    show_default=True,
    help="CPU of the built-in VM.",
)
@click.option(
    "--log",
    type=click.Choice(LOG_FORMS),
    default="bitmap",
    show_default=True,
    help="Form of KVM's dirty log, with --cpu kvm.",
)
@click.option(
    "--mode",
    default="1024x768",
    show_default=True,
    metavar="WxH",
    help="Screen size of the guest, pixels.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, (1 << 63) - 1),
    default=1,
    show_default=True,
    metavar="N",
    help="Seed of the workloads.",
)
@click.option(
    "--rounds",
    type=click.IntRange(1, 1000),
    default=ROUNDS,
    show_default=True,
    metavar="N",
    help="Number of turns of each tracker.",
)
@click.option(
    "--slice",
    "slice_s",
    type=click.FloatRange(0.05, 60),
    default=SLICE_S,
    show_default=True,
    metavar="SECONDS",
    help="Length of a turn, seconds.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--markdown", is_flag=True, help="Print Markdown tables.")
def trackers(
    *,
    workloads: tuple[str, ...],
    trackers: tuple[str, ...],
    cpu: CpuName,
    log: LogForm,
    mode: str,
    seed: int,
    rounds: int,
    slice_s: float,
    as_json: bool,
    markdown: bool,
) -> None:
    """Measure what each tracker costs on each workload.

    The workloads run in the built-in VM as fast as it can run them, while vramtap scans 60 times a second. A
    scan collects the written pages, then reads, compares and converts them.

    \b
    Columns:
      collect us   duration of a collect, microseconds, median
      scan us      duration of a scan, microseconds, median
      pages        pages reported by a collect, median
      all dirty    share of the collects whose log was not complete
      frames/s     the guest's frame rate while tracked
      untracked    the guest's frame rate while untracked
      slowdown     tracked over untracked time for the same frames
      total us     cost from one scan to the next: the guest's loss and the scan

    \b
    Examples:
      vramtap bench trackers
      vramtap bench trackers -t log -t hybrid -w scroll --json
    """
    names = workloads or MEASURED
    chosen = trackers or TRACKERS
    load = os.getloadavg()[0]
    with progress_bar() as progress:
        task = progress.add_task("starting", total=len(names) * (rounds * (len(chosen) + 1) + 1))
        costs = list(
            measure(
                names,
                chosen,
                cpu=cpu,
                log=log,
                mode=mode,
                seed=seed,
                rounds=rounds,
                slice_s=slice_s,
                progress=lambda what: progress.update(task, description=what, advance=1),
            )
        )
    if as_json:
        rows = [dataclasses.asdict(cost) for cost in costs]
        click.echo(json.dumps({"cpu": cpu, "mode": mode, "load": load, "costs": rows}, indent=2))
    elif markdown:
        click.echo(f"{as_markdown(costs)}\n\n{totals_as_markdown(costs)}")
    else:
        print_table(_table(costs), _PIPE_COLUMNS)


def as_markdown(costs: list[Cost]) -> str:
    """Return the costs as a Markdown table with a row for each workload."""
    names = list(dict.fromkeys(cost.tracker for cost in costs))
    head = ["workload", "frames/s"]
    for name in names:
        head += [f"{name}: collect us", "scan us", "slowdown"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for workload in dict.fromkeys(cost.workload for cost in costs):
        row = {cost.tracker: cost for cost in costs if cost.workload == workload}
        cells = [workload, f"{next(iter(row.values())).untracked_per_s:.0f}"]
        for name in names:
            cost = row[name]
            cells += [f"{cost.collect_us:.0f}", f"{cost.scan_us:.0f}", _slowdown(cost)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def totals_as_markdown(costs: list[Cost]) -> str:
    """Return the total costs a scan as a Markdown table, with workloads as rows and trackers as columns."""
    names = list(dict.fromkeys(cost.tracker for cost in costs))
    lines = [f"| {' | '.join(['total us a scan', *names])} |", f"|{'---|' * (1 + len(names))}"]
    for workload in dict.fromkeys(cost.workload for cost in costs):
        row = {cost.tracker: cost for cost in costs if cost.workload == workload}
        lines.append(f"| {' | '.join([workload, *(f'{row[name].total_us:.0f}' for name in names)])} |")
    return "\n".join(lines)


def _table(costs: list[Cost]) -> Table:
    table = Table("workload", "tracker")
    for title in (
        "collect us",
        "scan us",
        "pages",
        "all dirty",
        "frames/s",
        "untracked",
        "slowdown",
        "total us",
    ):
        table.add_column(title, justify="right")
    before = ""
    for cost in costs:
        table.add_row(
            cost.workload if cost.workload != before else "",
            cost.tracker,
            f"{cost.collect_us:.1f}",
            f"{cost.scan_us:.1f}",
            f"{cost.pages:.0f}",
            f"{cost.all_dirty:.0%}",
            f"{cost.frames_per_s:.1f}",
            f"{cost.untracked_per_s:.1f}",
            _slowdown(cost),
            f"{cost.total_us:.0f}",
        )
        before = cost.workload
    return table


def _slowdown(cost: Cost) -> str:
    return "-" if cost.slowdown is None else f"{cost.slowdown:.2f}"
