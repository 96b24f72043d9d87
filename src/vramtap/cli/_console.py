"""Terminal output shared by commands: a progress bar, and tables that are as wide as they need to be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from rich.table import Table


def progress_bar() -> Progress:
    """Return a progress bar on stderr that disappears when it is done."""
    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
    return Progress(*columns, console=Console(stderr=True), transient=True)


def print_table(table: Table, pipe_columns: int) -> None:
    """Print a table, as wide as the terminal.

    Args:
        table: Table to print.
        pipe_columns: Width in a file or a pipe, which has no width of its own, characters.
    """
    Console(width=None if Console().is_terminal else pipe_columns).print(table)
