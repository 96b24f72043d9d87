"""Addresses to listen on: parse, resolve and bind them, and limit what the kernel buffers for a client."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket
from typing import Final, NamedTuple

from vramtap.errors import ListenError, UsageError

MAX_PORT: Final = 65535
UNSENT_BYTES: Final = 128 * 1024
"""Limit for the bytes that the kernel holds unsent for one client. Without it the send buffer grows to 4 MB
(tcp_wmem) of updates, which reach a viewer on a slow line late.
Source: tcp(7), TCP_NOTSENT_LOWAT (Linux 3.12)."""

_REMEDIES: Final = {
    errno.EADDRINUSE: "choose another port, or 0 for any",
    errno.EADDRNOTAVAIL: "give an address of this machine",
    errno.EACCES: "choose a port of 1024 or above",
}

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class ListenAddress(NamedTuple):
    """An address to listen on.

    Args:
        host: Name or literal address, without brackets; empty for all addresses of this machine.
        port: TCP port; 0 lets the kernel choose a free one.
        or_any_port: Whether a server takes any free port if this one is busy.
    """

    host: str
    port: int
    or_any_port: bool = False

    def __str__(self) -> str:
        """Return `HOST:PORT`, an IPv6 address in brackets."""
        return host_port(self.host, self.port)


def parse_address(text: str, option: str, example: str) -> ListenAddress:
    """Parse `HOST:PORT`; the host may be an IPv6 address with or without brackets.

    Args:
        text: What the user wrote.
        option: Name of the option, for the error message.
        example: A valid address, for the error message.

    Raises:
        UsageError: The text has another form.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > MAX_PORT:
        raise UsageError(option, text, "not HOST:PORT", f"for example {example}, or 127.0.0.1:0")
    return ListenAddress(host.removeprefix("[").removesuffix("]"), int(port))


def host_port(host: str, port: int) -> str:
    """Return `HOST:PORT` as URLs and log lines have it: `192.0.2.7:80`, `[2001:db8::1]:80`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def literal_address(text: str) -> IPAddress | None:
    """Return the address that a literal stands for, None for a name.

    An IPv4 address mapped into IPv6 becomes the IPv4 address.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def is_loopback(text: str) -> bool:
    """Return whether only this machine can reach a server bound to this literal address."""
    address = literal_address(text)
    return address is not None and address.is_loopback


async def resolve(host: str, port: int) -> list[tuple[socket.AddressFamily, str]]:
    """Return family and literal address of everything that a name stands for.

    Args:
        host: Name or literal address; empty for all addresses of this machine.
        port: For the error message.

    Raises:
        ListenError: The name has no address.
    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:  # UnicodeError: the DNS cannot encode the name
        reason = getattr(error, "strerror", None) or str(error)
        raise ListenError(
            "listen", host_port(host, port), reason, "give a name or an address of this machine"
        ) from error
    return list(dict.fromkeys((family, str(address[0])) for family, *_, address in found))


def bind(family: socket.AddressFamily, address: str, port: int, backlog: int) -> socket.socket:
    """Return a non-blocking socket that listens.

    Args:
        family: AF_INET or AF_INET6.
        address: Literal address, from `resolve`.
        port: TCP port; 0 lets the kernel choose a free one.
        backlog: Connections that the kernel holds until the server accepts them.

    Raises:
        ListenError: The address is busy or is not an address of this machine.
    """
    where = host_port(address, port)
    if port > MAX_PORT:
        raise ListenError("listen", where, f"the last port is {MAX_PORT}", "choose a lower port")
    try:
        listener = socket.create_server((address, port), family=family, backlog=backlog)
    except OSError as error:
        # The error's own text repeats the address.
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ListenError("listen", where, reason, _REMEDIES.get(error.errno or 0, "")) from error
    listener.settimeout(0)
    return listener


def limit_unsent(connection: socket.socket) -> None:
    """Have the kernel hold at most `UNSENT_BYTES` unsent bytes. Sockets that are not TCP stay as they are."""
    if connection.family in (socket.AF_INET, socket.AF_INET6):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
