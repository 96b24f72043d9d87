"""The command line as Markdown, for the reference page and the manual page."""

from __future__ import annotations

import inspect
import re
import textwrap
from typing import TYPE_CHECKING, Final

import click

from vramtap.cli.main import PROGRAM, cli

if TYPE_CHECKING:
    from collections.abc import Iterator

PLACE: Final = "<!-- commands -->"
"""Line of a page that is replaced by the commands."""

_OPTION: Final = re.compile(r"(?<![`\w-])--[a-z][\w-]*")


def as_markdown() -> str:
    """Return all commands with their usage, help and options."""
    root = click.Context(cli, info_name=PROGRAM, **cli.context_settings)
    return "\n\n".join(_sections(cli, root))


def _sections(command: click.Command, context: click.Context) -> Iterator[str]:
    yield _section(command, context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None:
                yield from _sections(child, click.Context(child, info_name=name, parent=context))


def _section(command: click.Command, context: click.Context) -> str:
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    parts = [f"### {context.command_path}", f"```text\n{usage}\n```", _paragraphs(command.help or "")]
    records = [param.get_help_record(context) for param in command.get_params(context)]
    parts += [f"`{names}`\n: {_paragraphs(text)}" for names, text in filter(None, records) if text]
    return "\n\n".join(parts)


def _paragraphs(text: str) -> str:
    """Return a help text as Markdown. A form feed ends it; a backspace makes its paragraph verbatim."""
    paragraphs = inspect.cleandoc(text.partition("\f")[0]).split("\n\n")
    return "\n\n".join(map(_paragraph, paragraphs))


def _paragraph(text: str) -> str:
    if text.startswith("\b\n"):
        return f"```text\n{textwrap.dedent(text[2:])}\n```"
    return _OPTION.sub(r"`\g<0>`", text)
