"""`vramtap screenshot`: write the screen of a target to a PNG file."""

from __future__ import annotations

import json
from pathlib import Path

import click

from vramtap.cli import run
from vramtap.cli._target import TARGET_HELP
from vramtap.display.png import write_png
from vramtap.tap.tap import Tap
from vramtap.targets.open import open_target


@click.command(epilog=TARGET_HELP)
@click.argument("target")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="PNG file to write.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the file name and the size as JSON.")
@run.command
async def command(*, target: str, output: Path, as_json: bool) -> None:
    """Write the screen of TARGET to a PNG file.

    The target is only read. A screenshot needs no write protection and does not stop the target's threads.

    \b
    Example:
      vramtap screenshot x11::99 -o screen.png
    """
    async with Tap(open_target(target), tracker="compare") as tap:
        write_png(output, tap.screen.pixels)
        width, height = tap.screen.width, tap.screen.height
    if as_json:
        click.echo(json.dumps({"target": target, "file": str(output), "width": width, "height": height}))
    else:
        click.echo(f"{output}: {width}x{height}")
