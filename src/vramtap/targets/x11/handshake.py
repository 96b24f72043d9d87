"""`log_in`: connects to an X server with the first cookie that it accepts."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from vramtap.errors import NotFound, Refused
from vramtap.targets.x11.server import Display, connect_display, silent
from vramtap.targets.x11.xauthority import cookies, server_authority

if TYPE_CHECKING:
    import socket

MAX_COOKIES: Final = 8
"""Most cookies of one file that are tried."""
_ACCEPTED, _REFUSED = 1, 0


def log_in(display: Display, timeout_s: float) -> tuple[socket.socket, int, tuple[bytes, bytes]]:
    """Connect to a server with the first cookie that it accepts.

    Args:
        display: The display.
        timeout_s: How long the server may take for one answer.

    Returns:
        The accepted connection, the pid of the server, and name and data of the cookie. Name and data are
        empty if no cookie is needed.

    Raises:
        NotFound: there is no such display, or the server has ended.
        Refused: the server accepts no cookie.
        NotTappable: the server does not answer.
    """
    refusal, tried, own_file = "", 0, None
    candidates = cookies(display.number)[:MAX_COOKIES]
    while True:
        connected, pid = connect_display(display, timeout_s)
        if not tried:
            # The file that the server was started with (xvfb-run, display managers), if vramtap may read it.
            own_file = server_authority(pid)
            candidates += cookies(display.number, own_file)[:MAX_COOKIES] if own_file else []
            candidates.append((b"", b""))
        answer = _greet(connected, display, candidates[tried], timeout_s)
        if answer is None:
            return connected, pid, candidates[tried]
        connected.close()
        refusal, tried = refusal or answer, tried + 1
        if tried == len(candidates):
            where = f", {own_file}" if own_file else ""
            remedy = f"set XAUTHORITY to its cookie file{where}, or run as its user"
            raise Refused("connect", str(display), f"the X server says: {refusal}", remedy)


def _greet(
    connected: socket.socket, display: Display, cookie: tuple[bytes, bytes], timeout_s: float
) -> str | None:
    """Send the first request; return the server's reason for a refusal, else None.

    X protocol, "Connection Setup".
    """
    name, data = cookie
    hello = struct.pack("<BxHHHHxx", ord("l"), 11, 0, len(name), len(data))
    hello += name + bytes(-len(name) % 4) + data + bytes(-len(data) % 4)
    try:
        connected.sendall(hello)
        head = _receive(connected, 8)
        if head[0] == _ACCEPTED:
            return None
        reason = _receive(connected, head[1]) if head[0] == _REFUSED else b"it wants another authentication"
    except OSError as error:
        connected.close()
        if isinstance(error, TimeoutError):
            raise silent(display, timeout_s) from error
        raise NotFound("connect", str(display), f"the server hung up ({error})", "has it exited?") from error
    return " ".join(reason.decode("ascii", "replace").split()) or "no"


def _receive(source: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = source.recv(size - len(data))
        if not more:
            raise ConnectionResetError("end of stream")
        data += more
    return data
