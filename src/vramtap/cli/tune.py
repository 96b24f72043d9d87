"""`vramtap tune`: choose the hybrid tracker's parameters for a fleet of recorded traces."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from vramtap.cli._console import progress_bar
from vramtap.cli._trace_files import charged, load, read_costs, title

if TYPE_CHECKING:
    from vramtap.trace.tune import By, Tuned


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Address of your own Dask scheduler, which replaces the local processes.  [default: none]",
)
@click.option(
    "--jobs",
    type=click.IntRange(1, 1024),
    metavar="N",
    help="Number of local processes.  [default: one for each core]",
)
@click.option(
    "--costs",
    "costs_file",
    type=click.Path(path_type=Path),
    metavar="JSON",
    help="File with the costs, microseconds.  [default: as measured on each trace's target, or a reference]",
)
@click.option(
    "--by",
    type=click.Choice(["worst", "mean"]),
    default="worst",
    show_default=True,
    help="What to minimise: the cost relative to the optimum on the worst trace, or the mean of all traces.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object, for `trace replay --parameters`."
)
def command(
    *,
    files: tuple[Path, ...],
    scheduler: str | None,
    jobs: int | None,
    costs_file: Path | None,
    by: By,
    as_json: bool,
) -> None:
    """Choose the hybrid tracker's parameters that cost least on the traces FILE...

    The cost on each trace is relative to the trace's own optimum. The same traces always give the same
    parameters, on any number of processes.

    Dask executes code that its peers send. Use only a cluster of your own.

    \b
    Examples:
      vramtap tune *.parquet
      vramtap tune *.parquet --json > tuned.json
      vramtap trace replay *.parquet --parameters tuned.json
    """
    from vramtap.trace.tune import Member, search
    from vramtap.trace.workers import cluster, cores

    given = read_costs(costs_file)
    traces = [load(file) for file in files]
    members = [Member(trace, charged(trace, given)[0]) for trace in traces]
    names = [title(trace, file) for trace, file in zip(traces, files, strict=True)]
    with progress_bar() as progress:
        task = progress.add_task("tuning", total=None)

        def update(done: int, total: int) -> None:
            what = f"tuning: {done} of {total} replays"
            progress.update(task, completed=done, total=total, description=what)

        with cores(members, jobs) if scheduler is None else cluster(members, scheduler) as workers:
            tuned = search(len(members), workers, by=by, progress=update)
    if as_json:
        click.echo(json.dumps(_as_json(tuned, files, names), indent=2))
        return
    chosen = dataclasses.asdict(tuned.best.parameters)
    click.echo(", ".join(f"{name} {_figure(value)}" for name, value in chosen.items()))
    Console().print(_table(tuned, names))


def _as_json(tuned: Tuned, files: tuple[Path, ...], names: list[str]) -> dict[str, object]:
    rows = zip(files, names, tuned.optimum_us, tuned.start.ratios, tuned.best.ratios, strict=True)
    return {
        "parameters": dataclasses.asdict(tuned.best.parameters),
        "worst": tuned.best.worst,
        "mean": tuned.best.mean,
        "start": dataclasses.asdict(tuned.start.parameters),
        "tried": tuned.tried,
        "traces": [
            {"file": str(file), "name": name, "optimum_us": least_us, "before": before, "ratio": ratio}
            for file, name, least_us, before, ratio in rows
        ],
    }


def _table(tuned: Tuned, names: list[str]) -> Table:
    table = Table("trace")
    for heading in ("optimum ms", "before", "now"):
        table.add_column(heading, justify="right")
    rows = zip(names, tuned.optimum_us, tuned.start.ratios, tuned.best.ratios, strict=True)
    for name, least_us, before, ratio in rows:
        table.add_row(name, f"{least_us / 1000:.1f}", f"{before:.3f}", f"{ratio:.3f}")
    table.add_section()
    table.add_row("worst", "", f"{tuned.start.worst:.3f}", f"{tuned.best.worst:.3f}")
    table.add_row("mean", "", f"{tuned.start.mean:.3f}", f"{tuned.best.mean:.3f}")
    return table


def _figure(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
