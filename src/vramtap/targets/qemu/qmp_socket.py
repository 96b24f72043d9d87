"""`connect_socket`: connects to the socket of a QEMU monitor, and explains why it could not."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Final

from vramtap.errors import NotFound, NotTappable, Refused

QUEUE_RETRY_S: Final = 0.05
"""Time between two attempts to enter a full queue."""
_BRIEF_CHARS: Final = 200
"""Length of a text from QEMU in a message of vramtap's."""


async def connect_socket(path: str, name: str, timeout_s: float) -> socket.socket:
    """Connect to the socket of a monitor, and wait while the socket's queue of clients is full.

    Args:
        path: Path of the unix socket.
        name: What error messages call it.
        timeout_s: Longest wait for a place in the queue.

    Returns:
        A connected, non-blocking socket. QEMU may still be serving another client.

    Raises:
        NotFound: there is no such socket, or no process listens on it.
        NotTappable: the path is not a socket.
        Refused: there is no permission, or the queue stayed full.
    """
    loop = asyncio.get_running_loop()
    give_up_s = loop.time() + timeout_s
    while True:
        try:
            return _connect(path, name)
        except BlockingIOError as error:
            if loop.time() >= give_up_s:
                raise busy(name, f"its queue stayed full for {timeout_s:g} s") from error
        # connect(2) on a unix socket whose queue is full fails at once, and no event tells when it has space.
        await asyncio.sleep(QUEUE_RETRY_S)


def _connect(path: str, name: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        connection.connect(path)
    except BaseException as error:
        connection.close()
        # BlockingIOError: the queue is full.
        if isinstance(error, OSError) and not isinstance(error, BlockingIOError):
            raise _explained(error, path, name) from error
        raise
    return connection


def _explained(error: OSError, path: str, name: str) -> NotFound | NotTappable | Refused:
    """Return the error to raise for a failed connect(2)."""
    remedy = "give the path of QEMU's -qmp socket"
    if isinstance(error, FileNotFoundError):
        return NotFound(
            "connect", name, "no such socket", "start QEMU with -qmp unix:PATH,server=on,wait=off"
        )
    if isinstance(error, ConnectionRefusedError):
        if not Path(path).is_socket():
            return NotTappable("connect", name, "this is not a socket", remedy)
        return NotFound("connect", name, "no process listens on it: QEMU has ended", "see vramtap ls")
    if isinstance(error, PermissionError):
        return Refused("connect", name, "permission denied", "needs write permission on the socket")
    return Refused("connect", name, brief(error), remedy)


def busy(name: str, observation: str) -> Refused:
    """Return the error for a monitor that does not serve vramtap.

    Args:
        name: What messages call the monitor.
        observation: What vramtap saw.
    """
    reason = f"{observation}: another client holds this monitor, or it is not a QMP socket"
    return Refused("connect", name, reason, "give QEMU a second -qmp for vramtap")


def brief(text: object) -> str:
    """Return a text from QEMU as one printable line of bounded length, safe for a terminal."""
    line = "".join(char if char.isprintable() else " " for char in str(text)[: 4 * _BRIEF_CHARS])
    line = " ".join(line.split())
    return line if len(line) <= _BRIEF_CHARS else line[:_BRIEF_CHARS] + "..."
