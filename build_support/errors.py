"""BuildError: a build cannot continue, with a message that says what to do."""

from __future__ import annotations


class BuildError(Exception):
    """The build cannot continue. The message says what to do."""
