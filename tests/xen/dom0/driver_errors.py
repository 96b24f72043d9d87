"""The error of the drivers of dom0's guests."""

from __future__ import annotations


class DriverError(Exception):
    """A guest, `xl` or a Xen library failed. The message names operation, object and observation."""
