"""Restore the logging that the command line configures for the whole process."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Restore the handlers: one that is left would write to a stream that click's runner has closed."""
    log = logging.getLogger("vramtap")
    handlers, level = log.handlers[:], log.level
    yield
    log.handlers[:] = handlers
    log.setLevel(level)
