"""Command line of the modules that also run outside of a build."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from build_support.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Callable


def run(step: Callable[[Path], str]) -> None:
    """Run a step of the build on this checkout.

    Args:
        step: Takes the root of the checkout, and returns what it did, in one line.

    Raises:
        SystemExit: the step failed; with its message.
    """
    try:
        done = step(Path(__file__).resolve().parents[1])
    except BuildError as error:
        sys.exit(f"vramtap build: {error}")
    print(done)
