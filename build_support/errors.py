"""BuildError: what stops a build, said so that a user can do something about it."""

from __future__ import annotations


class BuildError(Exception):
    """The build cannot go on; the message says what to do."""
