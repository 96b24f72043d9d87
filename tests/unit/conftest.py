"""Fixtures of the unit tests."""

from __future__ import annotations

import gc
import logging
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def no_defect(caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest) -> Iterator[None]:
    """Check that vramtap logs no error, unless the test's name contains "defect"."""
    caplog.set_level(logging.INFO, "vramtap")
    yield
    gc.collect()
    loud = [r.getMessage() for r in caplog.get_records("call") if r.levelno >= logging.ERROR]
    assert bool(loud) == ("defect" in request.node.name), loud
