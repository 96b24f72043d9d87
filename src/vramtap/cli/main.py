"""The program `vramtap`: its subcommands, each in a module of its own, loaded when it is called."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import Final

import click

from vramtap.cli.run import configure_log, fail
from vramtap.errors import VramtapError

COMMANDS: Final = {
    "serve": "Show targets to VNC clients and browsers.",
    "ls": "List what can be tapped on this machine.",
    "watch": "Print a line for every change.",
    "screenshot": "Write the screen to a PNG file.",
    "doctor": "Say what this kernel and user can do.",
}


class _Lazy(click.Group):
    """Loads the module of the one subcommand that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, its module imported."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"vramtap.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table, without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-v", "--verbose", count=True, help="Say what happens; twice: everything.")
@click.version_option(version("vramtap"), prog_name="vramtap")
def cli(verbose: int) -> None:
    """Show a guest's screen by following the pages its video RAM was written through.

    TARGET is qemu:PATH-TO-QMP-SOCKET, x11::99, pid:PID?address=0x...&mode=WxH or shm:PATH?mode=WxH.
    """
    configure_log(verbose)


def main() -> None:
    """The entry point: errors raised outside a command body end in one line too."""
    try:
        cli()
    except VramtapError as error:
        fail(error)
