"""`vramtap demo`: run the built-in VM and show its screen; nothing else has to be installed."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote

import click

from vramtap.cli import run
from vramtap.cli.serve import ServeOptions, options, serve
from vramtap.machine.choose_cpu import CPU_NAMES, LOG_FORMS
from vramtap.machine.workloads import WORKLOADS

_PARAMETERS: Final = ("workload", "cpu", "log", "image", "seed", "hz", "mode")


@click.command()
@click.option("--workload", type=click.Choice(WORKLOADS), help="What the guest draws.  [default: desktop]")
@click.option(
    "--cpu",
    type=click.Choice(CPU_NAMES),
    help="What runs the guest; auto takes the faster one.  [default: auto]",
)
@click.option(
    "--log", type=click.Choice(LOG_FORMS), help="Form of KVM's dirty log, with --cpu kvm.  [default: bitmap]"
)
@click.option(
    "--image",
    metavar="FILE",
    help="Guest to run: a flat binary or an ELF64 executable.  [default: the packaged guest]",
)
@click.option("--seed", metavar="N", help="Seed of what the guest draws at random.  [default: 0]")
@click.option(
    "--hz",
    metavar="N",
    help="Frames a second: a power of two from 2 to 1024, or 0 for as fast as possible.  "
    "[default: the workload's, or 64]",
)
@click.option("--mode", metavar="WxH", help="Screen size of the guest, pixels.  [default: 1024x768]")
@options
@run.command
async def command(**given: Any) -> None:  # noqa: ANN401 - given by click
    """Run the built-in VM and show its screen to VNC clients and browsers, until Ctrl-C.

    The command does the same as `vramtap serve demo:?workload=...`. In the browser you can type and drag the
    window.

    \b
    Examples:
      vramtap demo
      vramtap demo --workload scroll --cpu kvm --web 127.0.0.1:8000
    """
    parameters = {name: given.pop(name) for name in _PARAMETERS}
    await serve([demo_url(parameters)], ServeOptions(**given), "Ctrl-C ends it, and the VM with it.")


def demo_url(parameters: dict[str, str | None]) -> str:
    """Return the TARGET string with these parameters, without those that are None."""
    query = "&".join(
        f"{name}={quote(value, safe='/')}" for name, value in parameters.items() if value is not None
    )
    return f"demo:?{query}" if query else "demo:"
