"""`vramtap tune`: choose the hybrid tracker's parameters for a fleet of recorded traces."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from vramtap.cli._progress import progress_bar
from vramtap.cli._trace_files import charged, load, read_costs, title

if TYPE_CHECKING:
    from vramtap.trace.tune import By, Tuned


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--scheduler", metavar="ADDRESS", help="Of a Dask cluster of your own, instead of all cores.")
@click.option("--jobs", type=click.IntRange(1, 1024), help="Processes, without --scheduler [all cores].")
@click.option(
    "--costs",
    type=click.Path(path_type=Path),
    help="JSON of what things cost [what was measured on a trace's target, or a reference].",
)
@click.option(
    "--by",
    type=click.Choice(["worst", "mean"]),
    default="worst",
    help="What to bring down: the cost against the optimum on the worst trace, or the mean of all [worst].",
)
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON object; `trace replay --parameters` takes it."
)
def command(
    files: tuple[Path, ...],
    scheduler: str | None,
    jobs: int | None,
    costs: Path | None,
    by: By,
    as_json: bool,
) -> None:
    """Choose the parameters that cost least on the traces FILE..., each against its own optimum."""
    from vramtap.trace.tune import Member, search
    from vramtap.trace.workers import cluster, cores

    given = read_costs(costs)
    traces = [load(file) for file in files]
    members = [Member(trace, charged(trace, given)[0]) for trace in traces]
    names = [title(trace, file) for trace, file in zip(traces, files, strict=True)]
    with progress_bar() as progress:
        task = progress.add_task("tuning", total=None)

        def told(done: int, of: int) -> None:
            progress.update(task, completed=done, total=of, description=f"tuning: {done} of {of} replays")

        with cores(members, jobs) if scheduler is None else cluster(members, scheduler) as workers:
            tuned = search(len(members), workers, by=by, told=told)
    if as_json:
        click.echo(json.dumps(_as_json(tuned, files, names), indent=2))
        return
    chosen = dataclasses.asdict(tuned.best.parameters)
    click.echo(", ".join(f"{name} {_figure(value)}" for name, value in chosen.items()))
    console = Console()
    console.print(_table(tuned, names))


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
