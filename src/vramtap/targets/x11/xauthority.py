"""Reads Xauthority files: the cookies that admit a client to an X server (Xau(3), Xsecurity(7))."""

from __future__ import annotations

import itertools
import os
import socket
import stat
from typing import Final

from vramtap.errors import VramtapError
from vramtap.linux import procfs

_MAX_BYTES: Final = 1 << 20
_COOKIE: Final = b"MIT-MAGIC-COOKIE-1"
_FAMILY_LOCAL: Final = 256
_FAMILY_WILD: Final = 65535


def cookies(display: int, path: str | None = None) -> list[tuple[bytes, bytes]]:
    """Return the cookies for a display, best first.

    Args:
        display: Number of the display.
        path: Path of the file. The default is XAUTHORITY, else ~/.Xauthority (Xau(3)).

    Returns:
        Name and data of each cookie; empty if the file cannot be read.
    """
    data = _read_regular(path or os.environ.get("XAUTHORITY") or os.path.expanduser("~/.Xauthority"))
    here = socket.gethostname().encode()
    exact: list[tuple[bytes, bytes]] = []
    other: list[tuple[bytes, bytes]] = []
    for family, address, number, name, cookie in _authority_entries(data):
        if name != _COOKIE or number not in (b"", b"%d" % display):
            continue
        here_or_any = family == _FAMILY_WILD or (family == _FAMILY_LOCAL and address == here)
        # An entry for another name of this machine is tried too, because the name may have changed.
        (exact if here_or_any else other).append((name, cookie))
    return exact + other


def _read_regular(path: str) -> bytes:
    """Return the first bytes of a file; empty if it is missing, not readable, or not a regular file."""
    try:
        # The path may come from an argument of another user's process, so it must not block on a pipe.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        # The server may still accept vramtap without a cookie. If not, it says so.
        return b""
    try:
        return os.read(descriptor, _MAX_BYTES) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
    finally:
        os.close(descriptor)


def _authority_entries(data: bytes) -> list[tuple[int, bytes, bytes, bytes, bytes]]:
    """Return family, address, display number, name and data of every entry (Xau(3), "FILE FORMAT")."""
    entries, at = [], 0
    while at + 2 <= len(data):
        family = int.from_bytes(data[at : at + 2], "big")
        at += 2
        fields = []
        for _ in range(4):
            size = int.from_bytes(data[at : at + 2], "big")
            fields.append(data[at + 2 : at + 2 + size])
            at += 2 + size
        if at > len(data):
            break
        entries.append((family, fields[0], fields[1], fields[2], fields[3]))
    return entries


def server_authority(pid: int) -> str | None:
    """Return the cookie file that a server was started with (`-auth FILE`); None if there is none."""
    try:
        arguments = procfs.cmdline(pid)
    except VramtapError:
        # This user may not read the arguments; the user's own cookie must do.
        return None
    for option, value in itertools.pairwise(arguments):
        if option == "-auth":
            return value
    return None
