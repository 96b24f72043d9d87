"""Shared by all subcommands: the event loop, exit on errors and signals, and the log."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from functools import wraps
from typing import TYPE_CHECKING, Final, NoReturn, ParamSpec, TypeVar

import click
import uvloop

from vramtap.errors import UsageError, VramtapError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2

P = ParamSpec("P")
T = TypeVar("T")

log: logging.Logger = logging.getLogger("vramtap")


def fail(error: VramtapError) -> NoReturn:
    """Print an error as one line on stderr and exit with the error's status."""
    click.echo(f"vramtap: {error}", err=True)
    sys.exit(EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED)


def discard_output() -> None:
    """Redirect stdout to /dev/null, after its reader has closed it."""
    # The interpreter flushes stdout at exit, and would fail again.
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def command(body: Callable[P, Coroutine[object, None, None]]) -> Callable[P, None]:
    """Make a coroutine the body of a click command.

    Ctrl-C, SIGTERM and SIGHUP cancel the coroutine, so that its context managers leave the target as they
    found it. A `VramtapError` becomes one line on stderr. A closed stdout ends the program silently.
    """

    @wraps(body)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            uvloop.run(_until_signal(body(*args, **kwargs)))
        except VramtapError as error:
            fail(error)
        except BrokenPipeError:
            discard_output()
        except (KeyboardInterrupt, asyncio.CancelledError):
            log.debug("ended by a signal")

    return run


async def _until_signal(body: Coroutine[object, None, T]) -> T:
    task = asyncio.ensure_future(body)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel)
    return await task


def configure_log(verbose: int) -> None:
    """Log to stderr: warnings by default, INFO with `-v`, DEBUG with `-vv`.

    Args:
        verbose: Number of `-v` options.
    """
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(level)
