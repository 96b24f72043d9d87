"""`vramtap bench`: measure on this machine, as a table for people and as JSON for scripts."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Final

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from vramtap.cli._bench_trackers import BLIND, ROUNDS, SLICE_S, TRACKERS, Cost, measure
from vramtap.machine.choose_cpu import CPU_NAMES, LOG_FORMS, CpuName, LogForm
from vramtap.machine.workloads import MEASURED, WORKLOADS
from vramtap.trackers.choose import NAMES

_WIDTH: Final = 120
"""Characters the table takes."""


@click.group()
def command() -> None:
    """Measure on this machine."""


@command.command()
@click.option(
    "--workload",
    "-w",
    "workloads",
    multiple=True,
    type=click.Choice(WORKLOADS),
    help="[all but desktop, large]",
)
@click.option(
    "--tracker",
    "-t",
    "trackers",
    multiple=True,
    type=click.Choice([*NAMES[1:], BLIND]),
    help=f"[{', '.join(TRACKERS)}]; {BLIND}: read it all, and track nothing.",
)
@click.option("--cpu", type=click.Choice(CPU_NAMES), default="unicorn", help="Of the embedded machine.")
@click.option("--log", type=click.Choice(LOG_FORMS), default="bitmap", help="With KVM: its log's form.")
@click.option("--mode", default="1024x768", metavar="WxH", help="Of the guest [1024x768].")
@click.option("--seed", type=click.IntRange(0, (1 << 63) - 1), default=1, help="Of the workloads [1].")
@click.option("--rounds", type=click.IntRange(1, 1000), default=ROUNDS, help=f"Turns a tracker [{ROUNDS}].")
@click.option(
    "--slice",
    "slice_s",
    type=click.FloatRange(0.05, 60),
    default=SLICE_S,
    help=f"Seconds a turn [{SLICE_S}].",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--markdown", is_flag=True, help="A table for a README.")
def trackers(
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
    """What each tracker costs on each workload: microseconds a look, and the guest's slowdown.

    The workloads run in the embedded machine, as fast as it can, looked at 60 times a second. A look is a
    collect and what follows it: the pages reported are read, compared and converted. Slowdown is the guest's
    time for the same frames with tracking over that without, taken side by side. Total is what it costs from
    one look to the next: the guest's loss, and our look.
    """
    names = workloads or MEASURED
    chosen = trackers or TRACKERS
    load = os.getloadavg()[0]
    costs: list[Cost] = []
    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("starting", total=len(names) * (rounds * (len(chosen) + 1) + 1))

        def step(what: str) -> None:
            progress.update(task, description=what, advance=1)

        for cost in measure(
            names,
            chosen,
            cpu=cpu,
            log=log,
            mode=mode,
            seed=seed,
            rounds=rounds,
            slice_s=slice_s,
            progress=step,
        ):
            costs.append(cost)
    if as_json:
        rows = [dataclasses.asdict(cost) for cost in costs]
        click.echo(json.dumps({"cpu": cpu, "mode": mode, "load": load, "costs": rows}, indent=2))
    elif markdown:
        click.echo(f"{as_markdown(costs)}\n\n{totals_as_markdown(costs)}")
    else:
        console = Console()
        # In a file or a pipe there is no width to fit.
        Console(width=None if console.is_terminal else _WIDTH).print(_table(costs))


def as_markdown(costs: list[Cost]) -> str:
    """The costs as a Markdown table, a workload a row."""
    names = list(dict.fromkeys(cost.tracker for cost in costs))
    head = ["workload", "frames/s"]
    for name in names:
        head += [f"{name}: collect us", "look us", "slowdown"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for workload in dict.fromkeys(cost.workload for cost in costs):
        row = {cost.tracker: cost for cost in costs if cost.workload == workload}
        cells = [workload, f"{next(iter(row.values())).untracked_per_s:.0f}"]
        for name in names:
            cost = row[name]
            cells += [f"{cost.collect_us:.0f}", f"{cost.look_us:.0f}", _slowdown(cost)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def totals_as_markdown(costs: list[Cost]) -> str:
    """What tracking costs in all from one look to the next, a workload a row, a tracker a column."""
    names = list(dict.fromkeys(cost.tracker for cost in costs))
    lines = [f"| {' | '.join(['total us a look', *names])} |", f"|{'---|' * (1 + len(names))}"]
    for workload in dict.fromkeys(cost.workload for cost in costs):
        row = {cost.tracker: cost for cost in costs if cost.workload == workload}
        lines.append(f"| {' | '.join([workload, *(f'{row[name].total_us:.0f}' for name in names)])} |")
    return "\n".join(lines)


def _table(costs: list[Cost]) -> Table:
    table = Table("workload", "tracker")
    for title in (
        "collect us",
        "look us",
        "pages",
        "everything",
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
            f"{cost.look_us:.1f}",
            f"{cost.pages:.0f}",
            f"{cost.everything:.0%}",
            f"{cost.frames_per_s:.1f}",
            f"{cost.untracked_per_s:.1f}",
            _slowdown(cost),
            f"{cost.total_us:.0f}",
        )
        before = cost.workload
    return table


def _slowdown(cost: Cost) -> str:
    return "-" if cost.slowdown is None else f"{cost.slowdown:.2f}"
