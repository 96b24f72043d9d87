"""What goes wrong between dom0's tests and their guests."""

from __future__ import annotations


class DriverError(Exception):
    """A guest, `xl` or a Xen library did not do what a test needs: operation, object, what was seen."""
