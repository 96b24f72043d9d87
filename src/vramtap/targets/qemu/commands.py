"""`Commands` and `Batch`: the QMP commands that vramtap uses, whichever connection carries them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractAsyncContextManager


class Commands(Protocol):
    """Sends commands to QEMU. `Monitor` says which errors the methods raise."""

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        """Run a QMP command and return its result."""
        ...

    async def hmp(self, line: str) -> str:
        """Run a line of the human monitor and return its output."""
        ...

    def batch(self) -> AbstractAsyncContextManager[Batch]:
        """Return a context manager that gives an object whose commands all use one connection."""
        ...


class Batch(Commands, Protocol):
    """Sends commands over one connection.

    Only so can a descriptor be lent: QEMU closes lent descriptors with the last connection.
    """

    async def add_fd(self, fd: int, fdset: int) -> None:
        """Lend QEMU a descriptor."""
        ...

    async def remove_fd(self, fdset: int) -> None:
        """Take a lent descriptor back."""
        ...
