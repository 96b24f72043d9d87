"""The web server: one address, several taps, a page for each, its life and its URLs."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import os
import socket
from typing import TYPE_CHECKING, Final, Self

from aiohttp import web
from aiohttp.http import HttpProcessingError

from vramtap.errors import NotFound, Refused, UsageError
from vramtap.servers.vnc.session import SessionOptions, serve_session
from vramtap.servers.web.routes import MAX_VIEWERS, Routes, Serve
from vramtap.servers.web.security import AccessPolicy, check_host, check_token, is_loopback, new_token

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType

    from vramtap.servers.web.watched import WatchedTap

log = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 200
"""TCP connections at once; a page needs eight. The next ones are told to come back later."""
IDLE_S: Final = 15.0
"""A connection without a complete request for so long is closed; WebSockets have their own pings."""
SHUTDOWN_S: Final = 3.0
"""How long requests may take to end when the server stops."""
BACKLOG: Final = 64
"""Connections the kernel holds before they are accepted."""

_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\nRetry-After: 5\r\n\r\n"
)


class WebServer:
    """Serves taps to browsers; an async context manager.

    A loopback address needs no token, any other demands one: made here if none is given.

    Args:
        taps: What is shown.
        host: Address or name to listen on.
        port: TCP port; 0 takes a free one.
        options: How sessions are served; a password in it is for VNC clients and not asked for here.
        token: What must be shown; None makes one where the address is not loopback.
        allow_hosts: Further names by which browsers reach the server (`--allow-host`).
        max_viewers: Screens shown at once, all targets together.
        serve: Speaks RFB over a stream that a browser opened.

    Raises:
        UsageError: there is nothing to show, or the token or a host name cannot be one.
    """

    def __init__(
        self,
        taps: Sequence[WatchedTap],
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        options: SessionOptions | None = None,
        token: str | None = None,
        allow_hosts: Iterable[str] = (),
        max_viewers: int = MAX_VIEWERS,
        serve: Serve = serve_session,
    ) -> None:
        if not taps:
            raise UsageError("serve the page", f"{host}:{port}", "there is no target to show")
        if token is not None:
            check_token(token)
        self._taps = tuple(taps)
        self._host = host
        self._port = port
        self._options = options or SessionOptions()
        self._serve = serve
        self._token = token
        self._allow_hosts = tuple(map(check_host, allow_hosts))
        self._max_viewers = max_viewers
        self._runner: web.AppRunner | None = None
        self._listener: asyncio.Server | None = None
        self._address = ""
        self._full = False

    @property
    def port(self) -> int:
        """The TCP port, once started."""
        return self._port

    @property
    def urls(self) -> list[str]:
        """Where the page is, token included, once started; the best one first."""
        query = f"/?token={self._token}" if self._token is not None else "/"
        return [f"http://{_authority(address, self._port)}{query}" for address in self._reachable()]

    async def start(self) -> None:
        """Listen.

        Raises:
            NotFound: the name has no address, or the package lacks noVNC.
            Refused: the address is in use or not ours.
        """
        channel = await self._listen()
        self._address, self._port = channel.getsockname()[:2]
        if self._token is None and not is_loopback(self._address):
            self._token = new_token()
        try:
            gate = AccessPolicy(self._address, (self._host, *self._allow_hosts), self._token)
            cookie = f"vramtap-{self._port}"  # cookies do not know ports: one name for each server
            site = Routes(self._taps, gate, self._options, self._serve, cookie, self._max_viewers)
            # aiohttp's Server hands out connection protocols; ours counts them first.
            self._runner = web.AppRunner(
                site.application(),
                access_log=None,
                logger=_request_log(),
                keepalive_timeout=IDLE_S,
                shutdown_timeout=SHUTDOWN_S,
            )
            await self._runner.setup()
            self._listener = await asyncio.get_running_loop().create_server(
                self._connection, sock=channel, backlog=BACKLOG
            )
        except BaseException:
            channel.close()
            await self.close()
            raise

    async def close(self) -> None:
        """Tell the viewers, stop listening, let go of everything; harmless when not started."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _listen(self) -> socket.socket:
        where = f"{self._host}:{self._port}"
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                self._host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
        except (socket.gaierror, UnicodeError) as error:  # the latter: no name the DNS could know
            reason = getattr(error, "strerror", None) or str(error)
            raise NotFound("listen", where, reason, "give an address of this machine") from error
        # One socket: a name that means two addresses would otherwise get two ports where 0 is asked for.
        family, _, _, _, address = min(found, key=lambda info: info[0] is not socket.AF_INET)
        try:
            return socket.create_server(address[:2], family=family, backlog=BACKLOG)
        except OSError as error:
            remedy = "choose another port, or 0 for any" if error.errno == errno.EADDRINUSE else ""
            # The error's own text repeats the address.
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise Refused("listen", where, reason, remedy) from error

    def _connection(self) -> asyncio.Protocol:
        """The protocol of a connection that has just been accepted."""
        server = self._runner.server if self._runner is not None else None
        if server is None or len(server.connections) >= MAX_CONNECTIONS:
            if not self._full:
                log.warning("web: turning connections away, %d are open", MAX_CONNECTIONS)
            self._full = True
            return _TurnAway()
        self._full = False
        return server()

    def _reachable(self) -> list[str]:
        address = ipaddress.ip_address(self._address)
        if not address.is_unspecified:
            return [self._address]
        loopback = "127.0.0.1" if address.version == 4 else "::1"
        return [outward for outward in (_outward_address(address.version),) if outward is not None] + [
            loopback
        ]


class _TurnAway(asyncio.Protocol):
    """Answers whoever comes while the server is full, without reading what is asked."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        transport.write(_BUSY)
        transport.close()


class _Brief(logging.Filter):
    """A request that is no HTTP is the client's fault: one line. Our own errors keep their traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError):
            record.levelno, record.levelname = logging.WARNING, "WARNING"
            peer = record.args[0] if isinstance(record.args, tuple) and record.args else "?"
            what = " ".join(error.message.split())
            record.msg, record.args = "web %s: bad request: %.120s", (peer, what)
            record.exc_info = None
        return log.isEnabledFor(record.levelno)


def _request_log() -> logging.Logger:
    found = log.getChild("request")
    # aiohttp tells of bytes that are no HTTP at all for debugging only; the filter decides what is shown.
    found.setLevel(logging.DEBUG)
    if not found.filters:
        found.addFilter(_Brief())
    return found


def _authority(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _outward_address(version: int) -> str | None:
    """The address by which other machines most likely reach this one; nothing is sent to find it.

    Connecting a datagram socket only looks up the route (udp(7)); the destinations are reserved for
    documentation (RFC 5737, RFC 3849).
    """
    family, beyond = (socket.AF_INET, "192.0.2.1") if version == 4 else (socket.AF_INET6, "2001:db8::1")
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((beyond, 9))
        except OSError:
            return None
        found: str = probe.getsockname()[0]
    return found
