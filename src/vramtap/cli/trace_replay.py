"""`vramtap trace replay`: compute the cost of policies on recorded traces."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from rich.table import Table

from vramtap.cli._console import print_table, progress_bar
from vramtap.cli._trace_files import charged, load, read_costs, read_parameters, title

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vramtap.policy.costs import Costs
    from vramtap.policy.decide import Parameters, Policy
    from vramtap.trace.optimum import Optimum
    from vramtap.trace.replay import Replayed

POLICIES: Final = ("hybrid", "log", "compare", "xen", "qemu")
ALL: Final = "all"
_PIPE_COLUMNS: Final = 140
"""Width of the table in a file or a pipe, characters."""


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@click.option(
    "--policy",
    "names",
    multiple=True,
    type=click.Choice([*POLICIES, ALL]),
    default=[ALL],
    help="Policy to replay; may be repeated.  [default: all]",
)
@click.option(
    "--costs",
    "costs_file",
    type=click.Path(path_type=Path),
    metavar="JSON",
    help="File with the costs, microseconds.  [default: as measured on the trace's target, or a reference]",
)
@click.option(
    "--parameters",
    "parameters_file",
    type=click.Path(path_type=Path),
    metavar="JSON",
    help="File written by `vramtap tune --json`, for the policy hybrid.  [default: built-in parameters]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--markdown", is_flag=True, help="Print a Markdown table.")
def command(
    *,
    files: tuple[Path, ...],
    names: tuple[str, ...],
    costs_file: Path | None,
    parameters_file: Path | None,
    as_json: bool,
    markdown: bool,
) -> None:
    """Compute what policies would have cost on traces.

    The cheapest schedule that scans in every interval is computed afterwards, from the whole trace. Its cost
    is known between two bounds. A policy's cost is given as a multiple of the lower bound. A policy that
    scans less often may cost less than the optimum; the columns "late" say how late its first updates are.

    \b
    Policies:
      hybrid   vramtap's own, of --tracker hybrid
      log      logs all pages
      compare  compares all pages
      xen      logs, and write-protects all pages after 2 s without a write
      qemu     logs, and scans less and less often while nothing is written

    \b
    Examples:
      vramtap trace replay terminal.parquet
      vramtap trace replay *.parquet --policy hybrid --policy log --json
    """
    given, parameters = read_costs(costs_file), read_parameters(parameters_file)
    chosen = [name for name in POLICIES if name in names or ALL in names]
    with progress_bar() as progress:
        task = progress.add_task("replaying", total=len(files) * (len(chosen) + 1))

        def update(what: str) -> None:
            progress.update(task, description=what, advance=1)

        rows = [_replayed(file, chosen, given, parameters, update) for file in files]
    if as_json:
        said = {"parameters": dataclasses.asdict(parameters), "traces": [_as_json(row) for row in rows]}
        click.echo(json.dumps(said, indent=2))
    elif markdown:
        click.echo(_as_markdown(rows))
    else:
        print_table(_table(rows), _PIPE_COLUMNS)


def _replayed(
    file: Path,
    names: list[str],
    given: Costs | None,
    parameters: Parameters,
    progress: Callable[[str], None],
) -> _Row:
    """Replay policies on one trace, and bound the cheapest schedule.

    Args:
        file: The trace.
        names: Policies to replay.
        given: Costs from the user, or None.
        parameters: Parameters of the policy `hybrid`.
        progress: Called before each step with its name.

    Raises:
        VramtapError: The file cannot be read, or is not a trace.
    """
    from vramtap.trace.optimum import optimum
    from vramtap.trace.replay import replay

    trace = load(file)
    name, (costs, source) = title(trace, file), charged(trace, given)
    makers = policies(parameters, trace.interval_s)
    replayed = []
    for policy in names:
        progress(f"{name}: {policy}")
        replayed.append(replay(trace, makers[policy](), costs, parameters.tile_pages))
    progress(f"{name}: optimum")
    return _Row(file, name, costs, source, optimum(trace, costs, parameters.tile_pages), replayed)


def policies(parameters: Parameters, interval_s: float) -> Mapping[str, Callable[[], Policy]]:
    """Return the constructors of the policies, by their names on the command line.

    Args:
        parameters: Parameters of the policy `hybrid`.
        interval_s: Poll interval, seconds.
    """
    from vramtap.policy.decide import CompareAlways, LogAlways, OnlinePolicy
    from vramtap.trace.reference_policies import QemuBackOff, XenTwoSeconds

    return {
        "hybrid": lambda: OnlinePolicy(parameters),
        "log": LogAlways,
        "compare": CompareAlways,
        "xen": lambda: XenTwoSeconds(interval_s),
        "qemu": QemuBackOff,
    }


@dataclass(frozen=True, slots=True)
class _Row:
    file: Path
    name: str
    costs: Costs
    source: str
    least: Optimum
    replayed: list[Replayed]


def _as_json(row: _Row) -> dict[str, object]:
    least = row.least
    return {
        "file": str(row.file),
        "name": row.name,
        "costs": {"source": row.source, **dataclasses.asdict(row.costs)},
        "optimum": {"lower_us": least.lower_us, "upper_us": least.upper_us},
        "policies": [
            {**dataclasses.asdict(each), "ratio": each.ratio(least.lower_us)} for each in row.replayed
        ],
    }


def _as_markdown(rows: list[_Row]) -> str:
    """Return a Markdown table: a row for each trace, each policy's cost as a multiple of the lower bound."""
    head = ["trace", *(f"{each.policy}: x optimum" for each in rows[0].replayed), "optimum: us an interval"]
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    for row in rows:
        cells = [row.name.replace("|", "\\|")]
        cells += [f"{each.ratio(row.least.lower_us):.2f}" for each in row.replayed]
        cells.append(f"{row.least.lower_us / row.replayed[0].intervals:.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _table(rows: list[_Row]) -> Table:
    table = Table("trace", "policy")
    for heading in (
        "x optimum",
        "us/interval",
        "vramtap ms",
        "guest ms",
        "scans",
        "armed s",
        "armings",
        "unprotected",
        "late ms",
        "late p99",
    ):
        table.add_column(heading, justify="right")
    for row in rows:
        least, replayed = row.least, row.replayed
        named = [row.name, f"({row.source})"]
        for number, each in enumerate(replayed):
            table.add_row(
                named[number] if number < len(named) else "",
                each.policy,
                f"{each.ratio(least.lower_us):.3f}",
                f"{each.interval_us:.1f}",
                f"{each.vramtap_us / 1000:.1f}",
                f"{each.guest_us / 1000:.1f}",
                str(each.scans),
                f"{each.armed_s:.1f}",
                str(each.armings),
                str(each.unprotected),
                f"{each.first_ms:.0f}",
                f"{each.first_p99_ms:.0f}",
            )
        upper = least.upper_us / least.lower_us if least.lower_us else 1.0
        intervals = replayed[0].intervals if replayed else 1
        table.add_row("", "optimum", f"1..{upper:.3f}", f"{least.lower_us / intervals:.1f}", end_section=True)
    return table
