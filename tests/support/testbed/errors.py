"""What goes wrong in the testbed."""

from __future__ import annotations


class TestbedError(Exception):
    """A tool, a package or a guest of the testbed did not do what the tests need."""

    __test__ = False  # pytest would take the name for that of a test class
