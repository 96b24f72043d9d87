"""`vramtap watch`: print a line for every change of a screen."""

from __future__ import annotations

import json
import time
from datetime import datetime
from typing import TYPE_CHECKING

import click

from vramtap.cli import run
from vramtap.cli._target import TARGET_HELP
from vramtap.tap.tap import Tap
from vramtap.targets.open import open_target
from vramtap.trackers.choose import NAMES

if TYPE_CHECKING:
    from vramtap.display.damage import Damage


@click.command(epilog=TARGET_HELP)
@click.argument("target")
@click.option(
    "--tracker",
    type=click.Choice(NAMES),
    default="auto",
    show_default=True,
    help="How vramtap finds written pages.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each change.")
@click.option(
    "-n",
    "--count",
    type=click.IntRange(1),
    metavar="N",
    help="End after N changes.  [default: until the target ends]",
)
@run.command
async def command(*, target: str, tracker: str, as_json: bool, count: int | None) -> None:
    """Print a line for every change of TARGET's screen.

    A line has the time, the number of pages written, the number of pixels changed, and the changed rectangles
    as WIDTHxHEIGHT+X+Y. Ctrl-C ends the command.

    \b
    Examples:
      vramtap watch x11::99
      vramtap watch qemu:/run/vm.qmp --json -n 1
    """
    changes = 0
    async with Tap(open_target(target), tracker=tracker) as tap:
        if not as_json:
            size = f"{tap.screen.width}x{tap.screen.height}"
            click.echo(f"{target} {size}, tracker {tap.stats.tracker}: {tap.stats.tracker_why}", err=True)
        async for damage in tap.changes():
            click.echo(_json_line(damage) if as_json else _line(damage))
            changes += 1
            if changes == count:
                return
        click.echo(f"vramtap: {target}: {tap.closed}", err=True)


def _line(damage: Damage) -> str:
    clock = datetime.now().astimezone().strftime("%H:%M:%S.%f")[:-3]
    rects = " ".join(f"{r.width}x{r.height}+{r.x}+{r.y}" for r in damage.rects)
    resized = f" now {damage.width}x{damage.height}" if damage.resized else ""
    return f"{clock} {damage.pages:5d} pages {damage.area:8d} pixels{resized}  {rects}"


def _json_line(damage: Damage) -> str:
    return json.dumps(
        {
            "time_s": time.time(),
            "pages": damage.pages,
            "pixels": damage.area,
            "resized": damage.resized,
            "width": damage.width,
            "height": damage.height,
            "rects": [tuple(rect) for rect in damage.rects],
        }
    )
