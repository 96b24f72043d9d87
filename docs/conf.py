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
# Two hyphens are an option of a command, not a dash.
smartquotes_action = "q"

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


def _fences_to_directives(
    _app: Sphinx, _what: str, _name: str, _obj: object, _options: object, lines: list[str]
) -> None:
    """Turn Markdown's fenced code blocks in docstrings into reStructuredText."""
    out: list[str] = []
    inside = False
    for line in lines:
        found = _FENCE.match(line)
        if found is None:
            out.append(f"   {line}" if inside and line else line)
        elif inside:
            inside = False
            out.append("")
        else:
            inside = True
            out += ["", f"{found[1]}.. code-block:: {found[2] or 'text'}", ""]
    lines[:] = out


def _insert_commands(_app: Sphinx, _page: str, source: list[str]) -> None:
    """Put the command line's reference where a page wants it."""
    if commands.PLACE in source[0]:
        source[0] = source[0].replace(commands.PLACE, commands.as_markdown())


def setup(app: Sphinx) -> None:
    """Register the hooks of this file."""
    # Before napoleon, which has the default priority of 500.
    app.connect("autodoc-process-docstring", _fences_to_directives, priority=100)
    app.connect("source-read", _insert_commands)
