"""Claim: a name that one process of this machine holds at a time, and loses however it ends."""

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
    """Holds a name until closed, or until the process has ended, be it by SIGKILL.

    Kernel: a bound UNIX socket in the abstract namespace (unix(7)): it has no file that could be left behind;
    names are those of this network namespace.

    Args:
        name: What is claimed.
        what: As messages call it.

    Raises:
        Refused: somebody holds it.
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
                    "claim", what, "another vramtap has it", "end that one, or use --tracker compare"
                ) from error
            raise error_for("bind", what, error.errno or 0) from error

    def close(self) -> None:
        """Give it up; harmless twice."""
        self._socket.close()
