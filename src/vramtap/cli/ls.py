"""`vramtap ls`: list what can be tapped on this machine."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Final

import click
from rich.console import Console
from rich.table import Column, Table

from vramtap.targets.discover import discover

PIPE_COLUMNS: Final = 10_000
"""Width of the table in a pipe, characters: more than the longest path (PATH_MAX 4096) and its
description."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of a table.")
def command(*, as_json: bool) -> None:
    """List what can be tapped on this machine.

    The list has the QEMU guests with a QMP socket, the X displays and, in dom0, the Xen domains. For a target
    that cannot be tapped it says why. The command only reads; it attaches to nothing.

    \b
    Examples:
      vramtap ls
      vramtap ls --json | jq -r '.[] | select(.tappable) | .url'
    """
    found = discover()
    if as_json:
        click.echo(
            json.dumps([{**dataclasses.asdict(each), "tappable": each.tappable} for each in found], indent=2)
        )
        return
    if not found:
        click.echo(
            "No QEMU guest with a QMP socket, no X display and no Xen domain was found. "
            "`vramtap demo` runs a VM of its own."
        )
        return
    # A target is there to be copied, so it is folded and never truncated.
    target = Column("target", overflow="fold")
    table = Table(target, "pid", "what", "tappable", box=None, pad_edge=False)
    for each in found:
        table.add_row(
            each.url, str(each.pid or "?"), each.description, "yes" if each.tappable else f"no: {each.reason}"
        )
    # A pipe has no width to fit into, and scripts need whole lines.
    width = None if sys.stdout.isatty() else PIPE_COLUMNS
    # Brackets and colons in a path are not markup.
    Console(width=width, markup=False, emoji=False, highlight=False).print(table)
