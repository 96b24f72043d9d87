"""What goes wrong in the laboratory."""

from __future__ import annotations


class LabError(Exception):
    """A tool, a package or a guest of the laboratory did not do what the tests need."""
