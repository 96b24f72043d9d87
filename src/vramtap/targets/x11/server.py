"""Displays of this machine: their names, their sockets, and the server processes behind them."""

from __future__ import annotations

import os
import re
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from vramtap.errors import NotFound, NotTappable, Refused, UsageError, VramtapError
from vramtap.linux import procfs

if TYPE_CHECKING:
    from vramtap.targets.url import TargetSpec

SOCKET_DIRECTORY: Final = "/tmp/.X11-unix"
ANSWER_TIMEOUT_S: Final = 5.0
"""How long a server may take to accept and answer a connection. It needs milliseconds unless it is stopped or
grabbed."""
MAX_DISPLAY: Final = 65535
_UCRED: Final = struct.Struct("3i")
_DISPLAY: Final = re.compile(r"(.*):([0-9]{1,5})(?:\.([0-9]{1,3}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Display:
    """A screen of a display of this machine.

    Args:
        number: Number of the display.
        screen: Number of the screen on it.
    """

    number: int
    screen: int = 0

    def __str__(self) -> str:
        """Return the value of the variable DISPLAY."""
        return f":{self.number}.{self.screen}" if self.screen else f":{self.number}"


def parse_display(spec: TargetSpec) -> Display:
    """Return the display of an `x11:` target.

    Args:
        spec: `x11::NUMBER` or `x11::NUMBER.SCREEN`.

    Raises:
        UsageError: it is not a display, or a display of another machine.
    """
    match = _DISPLAY.fullmatch(spec.rest)
    if match is None or int(match[2]) > MAX_DISPLAY:
        raise UsageError("target", spec.url, f"{spec.rest!r} is not a display", "x11::99 for DISPLAY=:99")
    if match[1] not in ("", "unix"):
        what = f"the memory of a server on {match[1]!r} cannot be reached from here"
        raise UsageError("target", spec.url, what, f"for a local display write x11::{match[2]}")
    return Display(int(match[2]), int(match[3] or 0))


def server_name(pid: int) -> str:
    """Return the name of the program in a server's process: `Xvfb`.

    Raises:
        NotFound: the process has ended.
        Refused: there is no permission.
    """
    # The kernel adds " (deleted)" if the program was replaced on disk, for instance by an upgrade.
    return os.path.basename(procfs.exe(pid)).removesuffix(" (deleted)")


def server_pid(display: Display) -> int:
    """Return the process that listens for a display's clients. It sees a connection that sends nothing.

    Raises:
        NotFound: there is no such display, or the server has ended.
        Refused: there is no permission.
        NotTappable: the process is not visible, or accepts no connection.
    """
    connected, pid = connect_display(display, ANSWER_TIMEOUT_S)
    connected.close()
    return pid


def connect_display(display: Display, timeout_s: float) -> tuple[socket.socket, int]:
    """Connect to a display's socket.

    Args:
        display: The display.
        timeout_s: How long the server may take to accept; also the timeout of the returned socket.

    Returns:
        The connected socket, and the pid of the process that listens there.

    Raises:
        NotFound: there is no such display, or the server has ended.
        Refused: there is no permission.
        NotTappable: the process is not visible, or accepts no connection.
    """
    path = f"{SOCKET_DIRECTORY}/X{display.number}"
    errors = []
    # Xorg listens at the path and at the abstract name. A container may share only one of them.
    for address in (path, f"\0{path}"):
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            connected.settimeout(timeout_s)
            connected.connect(address)
            credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        except OSError as error:
            connected.close()
            errors.append(error)
            continue
        pid = int(_UCRED.unpack(credentials)[0])
        if pid <= 0:
            connected.close()
            what = "the server runs in another pid namespace"
            raise NotTappable("connect", str(display), what, "run vramtap where the process is visible")
        return connected, pid
    raise _explained(display, path, errors[0], timeout_s)


def _explained(display: Display, path: str, error: OSError, timeout_s: float) -> VramtapError:
    """Return the error to raise for a failed connect(2)."""
    if isinstance(error, FileNotFoundError):
        return NotFound("connect", str(display), f"no X server there ({path} is missing)", "see vramtap ls")
    if isinstance(error, ConnectionRefusedError):
        return NotFound("connect", str(display), f"the server has ended and left {path}", "see vramtap ls")
    if isinstance(error, TimeoutError):
        return silent(display, timeout_s)
    return Refused("connect", str(display), f"{path}: {error.strerror or error}", "run as the server's user")


def silent(display: Display, timeout_s: float) -> NotTappable:
    """Return the error for a server that does not answer."""
    what = f"the server does not answer for {timeout_s:g} s"
    return NotTappable("connect", str(display), what, "is it stopped, or grabbed by one of its clients?")
