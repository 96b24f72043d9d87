"""AbstractLock: a named lock that the kernel releases when its process ends."""

from __future__ import annotations

import errno
import hashlib
import socket
from typing import Final

from vramtap.errors import Refused
from vramtap.linux.calls import error_for

_PREFIX: Final = b"\0vramtap/"
_LONGEST: Final = 108 - len(_PREFIX)
"""Bytes of an address in the abstract namespace (unix(7), sun_path)."""


class AbstractLock:
    """A named lock, held until `close` or the end of the process, even by SIGKILL.

    Kernel: a bound UNIX socket in the abstract namespace (unix(7)). It leaves no file behind. Its names are
        those of the process's network namespace.

    Args:
        name: Name of the lock.
        what: What the lock stands for, in messages.

    Raises:
        Refused: Another process holds the lock.
    """

    def __init__(self, name: str, what: str) -> None:
        claimed = name.encode("utf-8", "surrogatepass")
        if len(claimed) > _LONGEST:
            claimed = hashlib.sha256(claimed).hexdigest().encode()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.bind(_PREFIX + claimed)
        except OSError as error:
            self._socket.close()
            if error.errno == errno.EADDRINUSE:
                raise Refused(
                    "lock",
                    what,
                    "another vramtap holds it",
                    "end the other vramtap, or use --tracker compare",
                ) from error
            raise error_for("bind", what, error.errno or 0) from error

    def close(self) -> None:
        """Release the lock; repeated calls do nothing."""
        self._socket.close()
