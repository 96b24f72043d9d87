"""`vramtap trace replay`: what policies would have cost on recorded traces, against the cheapest schedule."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from rich.console import Console
from rich.table import Table

from vramtap.cli._progress import progress_bar
from vramtap.cli._trace_files import charged, load, read_costs, read_parameters, title

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vramtap.policy.costs import Costs
    from vramtap.policy.decide import Parameters, Policy
    from vramtap.trace.optimum import Optimum
    from vramtap.trace.replay import Replayed

POLICIES: Final = ("ours", "log", "compare", "xen", "qemu")
ALL: Final = "all"
_WIDTH: Final = 130
"""Characters the table takes where there is no terminal to fit."""


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--policy",
    "names",
    multiple=True,
    type=click.Choice([*POLICIES, ALL]),
    default=[ALL],
    help="As often as wanted [all].",
)
@click.option(
    "--costs",
    type=click.Path(path_type=Path),
    help="JSON of what things cost [what was measured on a trace's target, or a reference].",
)
@click.option(
    "--parameters", type=click.Path(path_type=Path), help="JSON that `vramtap tune --json` wrote, for `ours`."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--markdown", is_flag=True, help="A table for a README.")
def command(
    files: tuple[Path, ...],
    names: tuple[str, ...],
    costs: Path | None,
    parameters: Path | None,
    as_json: bool,
    markdown: bool,
) -> None:
    """Run policies over the traces FILE... and compare what they cost with the cheapest schedule there is.

    The cheapest schedule that looks in every interval lies between two bounds; a policy's cost is given as a
    multiple of the lower one. One that looks less often may cost less: "late" is what that costs the viewer.
    """
    from vramtap.trace.optimum import optimum
    from vramtap.trace.replay import replay

    given, ours = read_costs(costs), read_parameters(parameters)
    chosen = [name for name in POLICIES if name in names or ALL in names]
    rows: list[_Row] = []
    with progress_bar() as progress:
        task = progress.add_task("replaying", total=len(files) * (len(chosen) + 1))
        for file in files:
            trace = load(file)
            name, (now, source) = title(trace, file), charged(trace, given)
            makers = policies(ours, trace.interval_s)

            def step(what: str, name: str = name) -> None:
                progress.update(task, description=f"{name}: {what}")

            replayed = []
            for policy in chosen:
                step(policy)
                replayed.append(replay(trace, makers[policy](), now, ours.tile_pages))
                progress.advance(task)
            step("the optimum")
            rows.append(_Row(file, name, now, source, optimum(trace, now, ours.tile_pages), replayed))
            progress.advance(task)
    if as_json:
        said = {
            "parameters": dataclasses.asdict(ours),
            "traces": [_as_json(row) for row in rows],
        }
        click.echo(json.dumps(said, indent=2))
        return
    if markdown:
        click.echo(_as_markdown(rows))
        return
    console = Console()
    # In a file or a pipe there is no width to fit.
    Console(width=None if console.is_terminal else _WIDTH).print(_table(rows))


def policies(ours: Parameters, interval_s: float) -> Mapping[str, Callable[[], Policy]]:
    """What makes each policy, by the name the command line calls it.

    Args:
        ours: The parameters of `ours`.
        interval_s: Between two looks, seconds.
    """
    from vramtap.policy.decide import CompareAlways, LogAlways, OnlinePolicy
    from vramtap.trace.reference_policies import QemuBackOff, XenTwoSeconds

    return {
        "ours": lambda: OnlinePolicy(ours),
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
    """Each policy's cost as a multiple of the optimum's lower bound, a trace a row."""
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
        "ours ms",
        "guest ms",
        "looks",
        "armed s",
        "armings",
        "opened",
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
                f"{each.ours_us / 1000:.1f}",
                f"{each.guest_us / 1000:.1f}",
                str(each.looks),
                f"{each.armed_s:.1f}",
                str(each.armings),
                str(each.opened),
                f"{each.first_ms:.0f}",
                f"{each.first_p99_ms:.0f}",
            )
        upper = least.upper_us / least.lower_us if least.lower_us else 1.0
        intervals = replayed[0].intervals if replayed else 1
        table.add_row("", "optimum", f"1..{upper:.3f}", f"{least.lower_us / intervals:.1f}", end_section=True)
    return table
