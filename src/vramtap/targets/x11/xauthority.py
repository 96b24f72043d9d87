"""Xauthority: the cookies that let a client into an X server (Xau(3), Xsecurity(7))."""

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
    """The cookies for a display, best first.

    Args:
        display: Its number.
        path: Of the file; XAUTHORITY, else ~/.Xauthority by default (Xau(3)).

    Returns:
        Name and data of each; none if there is no such file.
    """
    data = _read_regular(path or os.environ.get("XAUTHORITY") or os.path.expanduser("~/.Xauthority"))
    here = socket.gethostname().encode()
    exact: list[tuple[bytes, bytes]] = []
    other: list[tuple[bytes, bytes]] = []
    for family, address, number, name, cookie in _authority_entries(data):
        if name != _COOKIE or number not in (b"", b"%d" % display):
            continue
        ours = family == _FAMILY_WILD or (family == _FAMILY_LOCAL and address == here)
        # An entry for another name of this machine is worth a try: the name may have changed since.
        (exact if ours else other).append((name, cookie))
    return exact + other


def _read_regular(path: str) -> bytes:
    """The start of a file; nothing if it is missing, not ours to read, or no regular file."""
    try:
        # The path may be an argument of somebody else's process: it must not make us wait on a pipe.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        # The server may still let us in without a cookie, and says so if it does not.
        return b""
    try:
        return os.read(descriptor, _MAX_BYTES) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
    finally:
        os.close(descriptor)


def _authority_entries(data: bytes) -> list[tuple[int, bytes, bytes, bytes, bytes]]:
    """Family, address, display number, name and data of every whole entry (Xau(3), "FILE FORMAT")."""
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
    """The cookie file a server was started with: what stands after `-auth` in its arguments."""
    try:
        arguments = procfs.cmdline(pid)
    except VramtapError:
        # Not ours to see; the user's own cookie has to do.
        return None
    for option, value in itertools.pairwise(arguments):
        if option == "-auth":
            return value
    return None
