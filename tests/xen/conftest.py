"""Collects dom0's tests in the testbed only: they create and destroy the host's domains."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import pytest

TESTBED: Final = "VRAMTAP_XEN_TESTBED"
"""Environment variable that the testbed's dom0 sets."""

collect_ignore = [] if TESTBED in os.environ else ["dom0"]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "short: run by make test; make test-xen runs the others of dom0 too")
