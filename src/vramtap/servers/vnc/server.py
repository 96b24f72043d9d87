"""VncServer: RFB clients over TCP."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import ipaddress
import logging
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, Self

from vramtap.errors import KernelError, NotFound, Refused, UsageError
from vramtap.rfb.security.vnc_auth import PASSWORD_BYTES, check_password
from vramtap.servers.vnc.session import EndReason, SessionOptions, serve_session
from vramtap.servers.vnc.tcp import TcpStream
from vramtap.servers.vnc.throttle import Throttle

if TYPE_CHECKING:
    from types import TracebackType

    from vramtap.servers.base import TapLike

log = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 64
"""Clients at once. A stalled one holds one update, at worst a screen uncompressed: 64 x 8 MB at 1080p."""
MAX_ENCODING_THREADS: Final = 4
"""Threads that encode, at most one a processor: deflate and JPEG run without the interpreter's lock."""
BACKLOG: Final = 128
"""Connections the kernel keeps until they are accepted. Past it a client's first packet is dropped, and it
waits a second or more before it tries again."""
ACCEPT_RETRY_S: Final = 0.5
"""After accepting failed for want of descriptors or memory (accept(2))."""
_TOO_MANY: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class VncServer:
    """Listens on an address and serves every client that connects. An async context manager.

    Args:
        tap: What is shown.
        host: Address or name to listen on, empty for all. Any but loopback demands a password.
        port: To listen on; 0 for one the system chooses.
        options: How clients are served; its password is asked of everyone.
        max_connections: Clients at once; further ones are turned away.

    Raises:
        UsageError: the password cannot be one (see `check_password`).
    """

    def __init__(
        self,
        tap: TapLike,
        host: str = "127.0.0.1",
        port: int = 5900,
        options: SessionOptions | None = None,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        self._tap = tap
        self._host = host
        self._port = port
        self._options = options or SessionOptions()
        self._max_connections = max_connections
        self._listening: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._clients: set[asyncio.Task[None]] = set()
        self._departure = asyncio.Event()
        self._executor: ThreadPoolExecutor | None = None
        password = self._options.password
        if password is not None and len(check_password(password)) > PASSWORD_BYTES:
            log.warning("VNC authentication uses only the first %d characters of a password", PASSWORD_BYTES)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where it listens: host and port."""
        return [listener.getsockname()[:2] for listener in self._listening]

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self.addresses[0][1]

    @property
    def connections(self) -> int:
        """Clients now, those that have not finished the handshake included."""
        return len(self._clients)

    async def until_left(self, remaining: int = 0) -> None:
        """Wait until no more than so many clients are connected."""
        while len(self._clients) > remaining:
            self._departure.clear()
            await self._departure.wait()

    async def __aenter__(self) -> Self:
        """Listen.

        Raises:
            UsageError: the address is not loopback and there is no password.
            NotFound: the name has no address.
            Refused: the address is in use or not ours.
        """
        loop = asyncio.get_running_loop()
        self._throttle = Throttle(loop.time)
        addresses = await self._resolve()
        if self._options.password is None:
            open_to = [address for address in addresses if not ipaddress.ip_address(address[1]).is_loopback]
            if open_to:
                raise UsageError(
                    "listen",
                    f"{self._host}:{self._port}",
                    "the address can be reached from other machines and no password is set",
                    "set a VNC password, or listen on 127.0.0.1 and reach it through an SSH tunnel",
                )
        try:
            for family, host in addresses:
                port = self._port or (self.port if self._listening else 0)
                self._listening.append(_listen(family, host, port))
        except OSError as error:
            self._close_listeners()
            reason = error.strerror or str(error)
            remedy = "choose another port, or 0 for any" if error.errno == errno.EADDRINUSE else ""
            raise Refused("listen", f"{self._host}:{self._port}", reason, remedy) from error
        if self._options.executor is None:
            threads = min(MAX_ENCODING_THREADS, os.cpu_count() or 1)
            self._executor = ThreadPoolExecutor(threads, thread_name_prefix="vramtap-encode")
            self._options = dataclasses.replace(self._options, executor=self._executor)
        self._accepting = [asyncio.create_task(self._accept(listener)) for listener in self._listening]
        for host, port in self.addresses:
            log.info("VNC on %s:%d", host, port, extra={"host": host, "port": port})
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening and disconnect everyone."""
        for task in (*self._accepting, *self._clients):
            task.cancel()
        await asyncio.gather(*self._accepting, *self._clients, return_exceptions=True)
        self._close_listeners()
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)

    async def _resolve(self) -> list[tuple[socket.AddressFamily, str]]:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(
                self._host or None, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
        except socket.gaierror as error:
            raise NotFound("listen", f"{self._host}:{self._port}", error.strerror or str(error)) from error
        return list(dict.fromkeys((family, str(address[0])) for family, *_, address in found))

    def _close_listeners(self) -> None:
        for listener in self._listening:
            listener.close()
        self._listening.clear()

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(listener)
            except OSError as error:
                # A client may be gone before it is accepted; only a shortage is worth a word and a pause.
                if error.errno in _TOO_MANY:
                    log.warning("%s", KernelError("accept", f"port {self.port}", error.errno or 0))
                    await asyncio.sleep(ACCEPT_RETRY_S)
                continue
            reason = self._unwelcome(address[0])
            if reason is not None:
                connection.close()
                peer = _name(address)
                log.warning("%s: turned away: %s", peer, reason, extra={"client": peer, "reason": reason})
                continue
            task = asyncio.create_task(self._serve(connection, address))
            self._clients.add(task)
            task.add_done_callback(self._left)

    def _left(self, client: asyncio.Task[None]) -> None:
        self._clients.discard(client)
        self._departure.set()
        if not client.cancelled() and (error := client.exception()) is not None:
            log.error("a defect of vramtap ended a session", exc_info=error)

    def _unwelcome(self, host: str) -> str | None:
        """Why a client is not served at all; None if it is."""
        if len(self._clients) >= self._max_connections:
            return f"{self._max_connections} clients are connected already"
        wait_s = self._throttle.wait_s(host)
        return f"too many wrong passwords, next try in {wait_s:.0f} s" if wait_s else None

    async def _serve(self, connection: socket.socket, address: tuple[str, int]) -> None:
        with contextlib.closing(connection):
            try:
                stream = TcpStream(connection, _name(address))
            except OSError as error:
                log.info("%s: gone before it was served: %s", _name(address), error.strerror)
                return
            departure = await serve_session(stream, self._tap, self._options)
        if self._options.password is None:
            return
        if departure.cause is EndReason.WRONG_PASSWORD:
            self._throttle.failed(address[0])
        elif departure.admitted:
            self._throttle.succeeded(address[0])


def _listen(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _name(address: tuple[str, int]) -> str:
    """As log lines call a client: `192.0.2.7:40312`, `[2001:db8::1]:40312`."""
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
