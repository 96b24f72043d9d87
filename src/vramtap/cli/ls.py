"""`vramtap ls`: what can be tapped on this machine."""

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
"""Wider than any path the kernel takes (PATH_MAX 4096) and what is said of it."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="A JSON list instead of a table.")
def command(as_json: bool) -> None:
    """List what can be tapped on this machine, and what cannot, with the reason. Touches nothing."""
    found = discover()
    if as_json:
        click.echo(
            json.dumps([{**dataclasses.asdict(each), "tappable": each.tappable} for each in found], indent=2)
        )
        return
    if not found:
        click.echo(
            "No QEMU with a QMP socket and no X display was found; `vramtap demo` brings a machine along."
        )
        return
    # The target is there to be copied: it is never cut short.
    target = Column("target", overflow="fold")
    table = Table(target, "pid", "what", "tappable", box=None, pad_edge=False)
    for each in found:
        table.add_row(
            each.url, str(each.pid or "?"), each.description, "yes" if each.tappable else f"no: {each.reason}"
        )
    # A pipe has no width to fit into: scripts get whole lines.
    width = None if sys.stdout.isatty() else PIPE_COLUMNS
    # Paths stand as they are: with brackets and colons in them they could be taken for markup.
    Console(width=width, markup=False, emoji=False, highlight=False).print(table)
