"""The error of the testbed."""

from __future__ import annotations


class TestbedError(Exception):
    """A tool, a package or a guest of the testbed failed."""

    __test__ = False  # because of its name pytest would collect it as a test class
