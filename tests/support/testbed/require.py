"""Requirements of a test. Where one is missing, the test is skipped; in CI it fails."""

from __future__ import annotations

import os
import shutil

import pytest


def require(present: bool, what: str) -> None:
    """Skip or fail the test if the machine lacks something.

    Args:
        present: Whether the machine has it.
        what: What is missing and what the user can do, for the report.
    """
    __tracebackhide__ = True
    if present:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"missing in CI: {what}")
    pytest.skip(what)


def program(name: str, package: str) -> str:
    """Return the path of an installed program.

    Args:
        name: Name on the command line.
        package: Debian package that contains it.

    Returns:
        Its path.
    """
    __tracebackhide__ = True
    path = shutil.which(name)
    require(path is not None, f"{name} is not installed (package {package})")
    assert path is not None
    return path
