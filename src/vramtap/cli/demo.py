"""`vramtap demo`: the embedded machine on VNC and on the page; nothing else has to be installed."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote

import click

from vramtap.cli import run
from vramtap.cli.serve import Serving, options, serve
from vramtap.machine.choose_cpu import CPU_NAMES, LOG_FORMS
from vramtap.machine.workloads import WORKLOADS

_PARAMETERS: Final = ("workload", "cpu", "log", "image", "seed", "hz", "mode")


@click.command()
@click.option("--workload", type=click.Choice(WORKLOADS), help="What the guest does [desktop].")
@click.option("--cpu", type=click.Choice(CPU_NAMES), help="What runs it [auto: the faster one].")
@click.option("--log", type=click.Choice(LOG_FORMS), help="With KVM, the form of its dirty log [bitmap].")
@click.option("--image", metavar="FILE", help="Another guest: a flat binary or an ELF64 executable.")
@click.option("--seed", metavar="N", help="Of what is drawn at random.")
@click.option("--hz", metavar="N", help="Frames a second, a power of two; 0: as fast as it can.")
@click.option("--mode", metavar="WxH", help="Screen of the guest [1024x768].")
@options
@run.command
async def command(**given: Any) -> None:  # noqa: ANN401 - click's: the parameters below, and those of Serving
    """Run a small machine in this process and show its screen to VNC clients and browsers, until Ctrl-C.

    The same as `vramtap serve demo:?workload=...`. On the page, type and drag the window.
    """
    words = {name: given.pop(name) for name in _PARAMETERS}
    await serve([demo_url(words)], Serving(**given), "Ctrl-C ends it, and the machine with it.")


def demo_url(words: dict[str, str | None]) -> str:
    """The TARGET string that means these parameters; those that are None are left out."""
    query = "&".join(f"{name}={quote(value, safe='/')}" for name, value in words.items() if value is not None)
    return f"demo:?{query}" if query else "demo:"
