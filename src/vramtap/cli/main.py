"""The program `vramtap`. Each subcommand is a module that is imported when the subcommand is called."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import version
from typing import Final

import click
from click.exceptions import NoArgsIsHelpError

from vramtap.cli._target import TARGET_HELP
from vramtap.cli.run import EXIT_FAILED, EXIT_USAGE, configure_log, discard_output, fail
from vramtap.errors import UsageError, VramtapError

PROGRAM: Final = "vramtap"
COMMANDS: Final = {
    "serve": "Show targets to VNC clients and browsers.",
    "ls": "List what can be tapped on this machine.",
    "watch": "Print a line for every change of a screen.",
    "screenshot": "Write a target's screen to a PNG file.",
    "bench": "Measure what vramtap costs on this machine.",
    "trace": "Record which pages a target writes, and replay it.",
    "tune": "Choose the hybrid tracker's parameters for recorded traces.",
    "demo": "Run the built-in VM and show its screen.",
    "doctor": "Report what works on this machine, and how to fix the rest.",
}
"""Subcommands and their summaries, in the order of `vramtap --help`."""


class _LazyGroup(click.Group):
    """A group that imports a subcommand's module when the subcommand is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the subcommands, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a subcommand's module and return its command; None if the name is unknown."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"vramtap.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of subcommands, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]}, epilog=TARGET_HELP)
@click.option("-v", "--verbose", count=True, help="Log what vramtap does to stderr; -vv logs more.")
@click.version_option(version(PROGRAM))
def cli(verbose: int) -> None:
    """Show the screen of a machine by following the memory it is written to.

    The kernel, the hypervisor or the MMU reports which pages were written. vramtap reads only those pages,
    and does nothing while nothing changes.

    \b
    Examples:
      vramtap demo
      vramtap ls
      vramtap serve qemu:/run/vm.qmp
      vramtap screenshot x11::99 -o screen.png

    \b
    Exit status:
      0  done
      1  failed; one line on stderr says what, why and what to do
      2  wrong usage
    """
    configure_log(verbose)


def main() -> None:
    """Run the program. Every expected error becomes one line and an exit status."""
    try:
        # The name is given here because `python -m vramtap` has another one.
        status = cli.main(prog_name=PROGRAM, standalone_mode=False)
    except VramtapError as error:
        fail(error)
    except NoArgsIsHelpError as error:
        error.show()
        sys.exit(EXIT_USAGE)
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx is not None else PROGRAM
        what = (path.partition(" ")[2], error.format_message().rstrip("."))
        fail(UsageError(": ".join(filter(None, what)), remedy=f"see {path} --help"))
    except click.Abort:
        sys.exit(EXIT_FAILED)
    except BrokenPipeError:
        discard_output()
        sys.exit(EXIT_FAILED)
    sys.exit(status if isinstance(status, int) else 0)
