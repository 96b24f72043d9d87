"""Keeps the tests that run in dom0 from anywhere else: they create and destroy the host's domains."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import pytest

LAB: Final = "VRAMTAP_XEN_LAB"
"""Environment variable that the testbed's dom0 sets."""

collect_ignore = [] if LAB in os.environ else ["dom0"]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "short: what every change is held to; make test-xen runs all of dom0's tests"
    )
