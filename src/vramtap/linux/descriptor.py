"""Descriptor: the base of objects that own a file descriptor."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType


class Descriptor:
    """An owned file descriptor; as a context manager it closes at the end.

    Args:
        fd: An open descriptor; owned from here on.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        """Return the descriptor; -1 after `close`."""
        return self._fd

    def close(self) -> None:
        """Close the descriptor; repeated calls do nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
