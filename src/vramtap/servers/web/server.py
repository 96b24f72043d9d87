"""The web server: one address, a page for each tap, and the URLs that lead there."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import TYPE_CHECKING, Final, Self

from aiohttp import web
from aiohttp.http import HttpProcessingError

from vramtap.errors import UsageError
from vramtap.servers.listen import bind, host_port, is_loopback, literal_address, resolve
from vramtap.servers.vnc.session import SessionOptions, serve_session
from vramtap.servers.web.limits import WebLimits
from vramtap.servers.web.routes import Routes, ServeSession
from vramtap.servers.web.security import AccessPolicy, check_host, check_token, new_token

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType

    from vramtap.tap.tap import Tap

log: logging.Logger = logging.getLogger(__name__)

BACKLOG: Final = 64
"""Connections that the kernel holds until the server accepts them."""

_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\nRetry-After: 5\r\n\r\n"
)


class WebServer:
    """Serves taps to browsers. An async context manager.

    A loopback address needs no token. Every other address requires one; the server makes it if the caller
    gives none.

    Args:
        taps: Served taps.
        host: Address or name to listen on.
        port: TCP port; 0 lets the kernel choose a free one.
        options: How sessions are served. Its password is for VNC clients; browsers need the token instead.
        token: Token that requests must carry; None makes one where the address is not loopback.
        allow_hosts: Further names by which browsers reach the server (`--allow-host`).
        limits: What clients may use at most.
        serve: Speaks RFB over a stream that a browser opened.

    Raises:
        UsageError: There are no taps, or the token or a host name is not valid.
    """

    def __init__(
        self,
        taps: Sequence[Tap],
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        options: SessionOptions | None = None,
        token: str | None = None,
        allow_hosts: Iterable[str] = (),
        limits: WebLimits | None = None,
        serve: ServeSession = serve_session,
    ) -> None:
        if not taps:
            raise UsageError("serve the page", host_port(host, port), "there is no target to show")
        if token is not None:
            check_token(token)
        self._taps = tuple(taps)
        self._host = host
        self._port = port
        self._options = options or SessionOptions()
        self._serve = serve
        self._token = token
        self._allow_hosts = tuple(map(check_host, allow_hosts))
        self._limits = limits or WebLimits()
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
        """URLs of the page with the token, once started; the best one first."""
        query = f"/?token={self._token}" if self._token is not None else "/"
        return [f"http://{host_port(address, self._port)}{query}" for address in self._reachable_addresses()]

    async def start(self) -> None:
        """Listen.

        Raises:
            ListenError: The name has no address, or the address is busy or not of this machine.
            MissingAsset: The installed package lacks noVNC.
        """
        # One socket only: for a name with two addresses and port 0, two sockets would get two ports.
        addresses = await resolve(self._host, self._port)
        family, address = min(addresses, key=lambda found: found[0] is not socket.AF_INET)
        listener = bind(family, address, self._port, BACKLOG)
        self._address, self._port = listener.getsockname()[:2]
        if self._token is None and not is_loopback(self._address):
            self._token = new_token()
        try:
            policy = AccessPolicy(self._address, (self._host, *self._allow_hosts), self._token)
            cookie = f"vramtap-{self._port}"  # browsers share cookies between ports: one name per server
            routes = Routes(self._taps, policy, self._options, self._serve, cookie, self._limits)
            # The runner's own site would accept every connection. `_new_connection` counts them first.
            self._runner = web.AppRunner(
                routes.application(),
                access_log=None,
                logger=_request_logger(),
                keepalive_timeout=self._limits.idle_s,
                shutdown_timeout=self._limits.shutdown_s,
            )
            await self._runner.setup()
            self._listener = await asyncio.get_running_loop().create_server(
                self._new_connection, sock=listener, backlog=BACKLOG
            )
        except BaseException:
            listener.close()
            await self.close()
            raise

    async def close(self) -> None:
        """Close all sessions and stop listening. Does nothing if the server is not started."""
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

    def _new_connection(self) -> asyncio.Protocol:
        """Return the protocol of a connection that the server has just accepted."""
        server = self._runner.server if self._runner is not None else None
        if server is None or len(server.connections) >= self._limits.connections:
            if not self._full:
                log.warning("web: rejecting connections: %d are open", self._limits.connections)
            self._full = True
            return _RejectConnection()
        self._full = False
        return server()

    def _reachable_addresses(self) -> list[str]:
        """Return addresses for the page's URL, the best one first."""
        address = literal_address(self._address)
        if address is None or not address.is_unspecified:
            return [self._address]
        loopback = "127.0.0.1" if address.version == 4 else "::1"
        outward = _outward_address(address.version)
        return [loopback] if outward is None else [outward, loopback]


class _RejectConnection(asyncio.Protocol):
    """Answers 503 without reading the request, because the server is full."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        transport.write(_BUSY)
        transport.close()


class _BadRequestFilter(logging.Filter):
    """Turns aiohttp's traceback for a malformed request into one line. Other tracebacks stay."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError):
            record.levelno, record.levelname = logging.WARNING, "WARNING"
            peer = record.args[0] if isinstance(record.args, tuple) and record.args else "?"
            message = " ".join(error.message.split())
            record.msg, record.args = "web %s: bad request: %.120s", (peer, message)
            record.exc_info = None
        return log.isEnabledFor(record.levelno)


def _request_logger() -> logging.Logger:
    logger = log.getChild("request")
    # aiohttp logs bytes that are not HTTP only at DEBUG. The filter raises these records to WARNING, and
    # drops what this module's logger does not log.
    logger.setLevel(logging.DEBUG)
    if not logger.filters:
        logger.addFilter(_BadRequestFilter())
    return logger


def _outward_address(version: int) -> str | None:
    """Return the address by which other machines most likely reach this one.

    Connecting a datagram socket only looks up the route (udp(7)) and sends nothing. The destinations are
    reserved for documentation (RFC 5737, RFC 3849).
    """
    family, beyond = (socket.AF_INET, "192.0.2.1") if version == 4 else (socket.AF_INET6, "2001:db8::1")
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((beyond, 9))
        except OSError:
            return None
        address: str = probe.getsockname()[0]
    return address
