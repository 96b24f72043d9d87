"""Sphinx configuration of the documentation site and of the manual page vramtap.1."""

from __future__ import annotations

import re
import sys
from importlib.metadata import version as version_of
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent))

import commands  # beside this file

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "vramtap"
author = "The vramtap authors"
project_copyright = author
release = version = version_of("vramtap")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
# `code` in a docstring or in the help of a command is code, as in Markdown.
default_role = "code"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_use_ivar = True

html_theme = "furo"
html_title = "vramtap"
html_copy_source = False
html_show_sphinx = False
html_static_path = ["_static"]
html_css_files = ["tables.css"]

man_pages = [("reference/cli", "vramtap", "show, record and automate a screen by its memory", author, 1)]
man_show_urls = True

_FENCE = re.compile(r"^(\s*)```(\w*)\s*$")
_CODE = re.compile(r"(?<![`:])`([^`]+)`(?!`)")


def _markdown_to_rest(
    _app: Sphinx, what: str, _name: str, _obj: object, _options: object, lines: list[str]
) -> None:
    """Turn the Markdown of a docstring into reStructuredText: code spans and code blocks."""
    out: list[str] = []
    inside = False
    for number, line in enumerate(lines):
        fence = _FENCE.match(line)
        if fence is not None:
            inside = not inside
            out += ["", f"{fence[1]}.. code-block:: {fence[2] or 'text'}", ""] if inside else [""]
        elif inside:
            out.append(f"   {line}" if line else line)
        else:
            text = _CODE.sub(r"``\1``", line)
            out.append(f"{text}:" if _introduces_block(lines, number) else text)
    if what in ("attribute", "property") and out:
        # Napoleon takes what stands before a colon in an attribute's first line for its type.
        out[0] = out[0].replace(": ", " -- ", 1)
    lines[:] = out


def _introduces_block(lines: list[str], number: int) -> bool:
    """Whether an indented block follows a line that ends with a colon, after an empty line."""
    line, after = lines[number], lines[number + 1 : number + 3]
    if not line.endswith(":") or line.endswith("::") or len(after) < 2 or after[0].strip():
        return False
    return _indent(after[1]) > _indent(line)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _insert_commands(_app: Sphinx, _page: str, source: list[str]) -> None:
    """Put the command line's reference where a page wants it."""
    if commands.PLACE in source[0]:
        source[0] = source[0].replace(commands.PLACE, commands.as_markdown())


def _read_commands_again(*_arguments: object) -> list[str]:
    """Return the pages that depend on the command line, whose sources Sphinx does not know."""
    return ["reference/cli"]


def setup(app: Sphinx) -> None:
    """Register the hooks of this file."""
    # Before napoleon, which has the default priority of 500.
    app.connect("autodoc-process-docstring", _markdown_to_rest, priority=100)
    app.connect("source-read", _insert_commands)
    app.connect("env-get-outdated", _read_commands_again)
