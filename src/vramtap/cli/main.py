"""The program `vramtap`: its subcommands, each in a module of its own, loaded when it is called."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import version
from typing import Final

import click
from click.exceptions import NoArgsIsHelpError

from vramtap.cli.run import EXIT_FAILED, EXIT_USAGE, configure_log, drop_output, fail
from vramtap.errors import UsageError, VramtapError

PROGRAM: Final = "vramtap"
COMMANDS: Final = {
    "serve": "Show targets to VNC clients and browsers.",
    "ls": "List what can be tapped on this machine.",
    "watch": "Print a line for every change.",
    "screenshot": "Write the screen to a PNG file.",
    "bench": "Measure on this machine.",
    "trace": "Record which pages a target writes, and replay it.",
    "tune": "Choose the hybrid tracker's parameters for recorded traces.",
    "demo": "Show a small machine of vramtap's own.",
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
@click.version_option(version(PROGRAM))
def cli(verbose: int) -> None:
    """Show a guest's screen by following the pages its video RAM was written through.

    TARGET is qemu:PATH-TO-QMP-SOCKET, x11::99, pid:PID?address=0x...&mode=WxH, shm:PATH?mode=WxH or demo:.
    """
    configure_log(verbose)


def main() -> None:
    """The entry point: whatever ends the program ends it in one line."""
    try:
        # Named here: `python -m vramtap` is called otherwise.
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
        drop_output()
        sys.exit(EXIT_FAILED)
    sys.exit(status if isinstance(status, int) else 0)
