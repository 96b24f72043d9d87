"""`vramtap trace replay`: what policies would have cost on recorded traces, against the cheapest schedule."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from rich.console import Console
from rich.table import Table

from vramtap.cli.traces import bar, read_costs, read_parameters, title
from vramtap.errors import UsageError

if TYPE_CHECKING:
    from vramtap.trace.optimum import Optimum
    from vramtap.trace.replay import Replayed
    from vramtap.trackers.policy import Parameters, Policy

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
@click.option("--costs", type=click.Path(path_type=Path), help="JSON of what things cost on the target.")
@click.option(
    "--parameters", type=click.Path(path_type=Path), help="JSON that `vramtap tune --json` wrote, for `ours`."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(
    files: tuple[Path, ...],
    names: tuple[str, ...],
    costs: Path | None,
    parameters: Path | None,
    as_json: bool,
) -> None:
    """Run policies over the traces FILE... and compare what they cost with the cheapest schedule there is.

    The cheapest schedule lies between two bounds; a policy's cost is given as a multiple of the lower one.
    """
    from vramtap.trace import store
    from vramtap.trace.optimum import optimum
    from vramtap.trace.replay import replay

    charged, ours = read_costs(costs), read_parameters(parameters)
    chosen = [name for name in POLICIES if name in names or ALL in names]
    makers = policies(ours)
    rows: list[tuple[Path, str, Optimum, list[Replayed]]] = []
    with bar() as progress:
        task = progress.add_task("replaying", total=len(files) * (len(chosen) + 1))
        for file in files:
            trace = store.load(file)
            if not trace.intervals:
                raise UsageError("trace", str(file), "has no look to replay")
            name = title(trace, file)

            def step(what: str, name: str = name) -> None:
                progress.update(task, description=f"{name}: {what}")

            replayed = []
            for policy in chosen:
                step(policy)
                replayed.append(replay(trace, makers[policy](), charged, ours.tile_pages))
                progress.advance(task)
            step("the optimum")
            rows.append((file, name, optimum(trace, charged, ours.tile_pages), replayed))
            progress.advance(task)
    if as_json:
        said = {
            "costs": dataclasses.asdict(charged),
            "parameters": dataclasses.asdict(ours),
            "traces": [_as_json(*row) for row in rows],
        }
        click.echo(json.dumps(said, indent=2))
        return
    console = Console()
    # In a file or a pipe there is no width to fit.
    Console(width=None if console.is_terminal else _WIDTH).print(_table(rows))


def policies(ours: Parameters) -> Mapping[str, Callable[[], Policy]]:
    """What makes each policy, by the name the command line calls it.

    Args:
        ours: The parameters of `ours`.
    """
    from vramtap.trackers.policies import QemuBackOff, XenTwoSeconds
    from vramtap.trackers.policy import CompareAlways, LogAlways, OnlinePolicy

    return {
        "ours": lambda: OnlinePolicy(ours),
        "log": LogAlways,
        "compare": CompareAlways,
        "xen": XenTwoSeconds,
        "qemu": QemuBackOff,
    }


def _as_json(file: Path, name: str, least: Optimum, replayed: list[Replayed]) -> dict[str, object]:
    return {
        "file": str(file),
        "name": name,
        "optimum": {"lower_us": least.lower_us, "upper_us": least.upper_us},
        "policies": [{**dataclasses.asdict(each), "ratio": each.ratio(least.lower_us)} for each in replayed],
    }


def _table(rows: list[tuple[Path, str, Optimum, list[Replayed]]]) -> Table:
    table = Table("trace", "policy")
    for heading in (
        "x optimum",
        "us a look",
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
    for _, name, least, replayed in rows:
        for number, each in enumerate(replayed):
            table.add_row(
                "" if number else name,
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
