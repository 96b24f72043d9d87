"""What a test needs of the machine: where it is missing the test is skipped, but in CI it fails."""

from __future__ import annotations

import os
import shutil

import pytest


def require(present: bool, what: str) -> None:
    """Go on only if the machine offers this.

    Args:
        present: Whether it was found, by trying it.
        what: What is missing and what would help, for the report.
    """
    __tracebackhide__ = True
    if present:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"missing in CI: {what}")
    pytest.skip(what)


def program(name: str, package: str) -> str:
    """A program of the system.

    Args:
        name: As on the command line.
        package: Debian's package that has it.

    Returns:
        Its path.
    """
    __tracebackhide__ = True
    path = shutil.which(name)
    require(path is not None, f"{name} is not installed (package {package})")
    assert path is not None
    return path
