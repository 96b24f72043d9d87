"""The VNC server: RFB clients over TCP."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, Self

from vramtap.errors import KernelError, UsageError
from vramtap.rfb.security.vnc_auth import PASSWORD_BYTES, check_password
from vramtap.servers.listen import bind, host_port, is_loopback, resolve
from vramtap.servers.vnc.session import EndReason, SessionOptions, serve_session
from vramtap.servers.vnc.tcp import TcpStream
from vramtap.servers.vnc.throttle import Throttle

if TYPE_CHECKING:
    import socket
    from types import TracebackType

    from vramtap.tap.tap import Tap

log: logging.Logger = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 64
"""Default limit for clients at once. A stalled client holds one update, at worst a whole screen uncompressed:
64 x 8 MB at 1080p."""
MAX_ENCODING_THREADS: Final = 4
"""Limit for threads that encode; there is at most one per processor. Deflate and JPEG run without the
interpreter's lock."""
BACKLOG: Final = 128
"""Connections that the kernel holds until the server accepts them. If the backlog is full, the kernel drops
the first packet of a client, and the client retries after a second or more."""
ACCEPT_RETRY_S: Final = 0.5
"""Pause after accept(2) failed because descriptors or memory ran out, seconds."""
_OUT_OF_RESOURCES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class VncServer:
    """Listens on an address and serves one tap to every client that connects. An async context manager.

    Args:
        tap: The tap whose screen clients see.
        host: Address or name to listen on, empty for all addresses. Every address except loopback
            requires a password.
        port: TCP port; 0 lets the kernel choose a free one.
        options: How the server serves clients. Every client must give the password in it.
        max_connections: Limit for clients at once; the server closes further connections.

    Raises:
        UsageError: The password is empty or has characters that VNC cannot carry (see `check_password`).
    """

    def __init__(
        self,
        tap: Tap,
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
        self._listeners: list[socket.socket] = []
        self._acceptors: list[asyncio.Task[None]] = []
        self._sessions: set[asyncio.Task[None]] = set()
        self._executor: ThreadPoolExecutor | None = None
        password = self._options.password
        if password is not None and len(check_password(password)) > PASSWORD_BYTES:
            log.warning("VNC authentication uses only the first %d characters of a password", PASSWORD_BYTES)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Host and port of every listening socket."""
        return [listener.getsockname()[:2] for listener in self._listeners]

    @property
    def port(self) -> int:
        """The TCP port that the server listens on."""
        return self.addresses[0][1]

    @property
    def connections(self) -> int:
        """Number of clients now, including clients in the handshake."""
        return len(self._sessions)

    async def __aenter__(self) -> Self:
        """Listen.

        Raises:
            UsageError: The address is not loopback and there is no password.
            ListenError: The name has no address, or the address is busy or not of this machine.
        """
        self._throttle = Throttle(asyncio.get_running_loop().time)
        addresses = await resolve(self._host, self._port)
        if self._options.password is None and not all(is_loopback(address) for _, address in addresses):
            raise UsageError(
                "listen",
                host_port(self._host, self._port),
                "the address can be reached from other machines and no password is set",
                "set a VNC password, or listen on 127.0.0.1 and reach it through an SSH tunnel",
            )
        try:
            for family, address in addresses:
                port = self._port or (self.port if self._listeners else 0)
                self._listeners.append(bind(family, address, port, BACKLOG))
        except BaseException:
            self._close_listeners()
            raise
        if self._options.executor is None:
            threads = min(MAX_ENCODING_THREADS, os.cpu_count() or 1)
            self._executor = ThreadPoolExecutor(threads, thread_name_prefix="vramtap-encode")
            self._options = dataclasses.replace(self._options, executor=self._executor)
        self._acceptors = [asyncio.create_task(self._accept(listener)) for listener in self._listeners]
        for host, port in self.addresses:
            log.info("VNC on %s", host_port(host, port), extra={"host": host, "port": port})
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening and disconnect every client."""
        tasks = (*self._acceptors, *self._sessions)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._close_listeners()
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    async def _accept(self, listener: socket.socket) -> None:
        """Accept connections until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(listener)
            except OSError as error:
                # A client that leaves before the server accepts it is normal. Only a shortage is logged.
                if error.errno in _OUT_OF_RESOURCES:
                    log.warning("%s", KernelError("accept", f"port {self.port}", error.errno or 0))
                    await asyncio.sleep(ACCEPT_RETRY_S)
                continue
            rejection = self._rejection(address[0])
            if rejection is not None:
                connection.close()
                peer = host_port(*address[:2])
                log.warning("%s: rejected: %s", peer, rejection, extra={"client": peer, "detail": rejection})
                continue
            session = asyncio.create_task(self._serve(connection, address))
            self._sessions.add(session)
            session.add_done_callback(self._on_session_done)

    def _on_session_done(self, session: asyncio.Task[None]) -> None:
        self._sessions.discard(session)
        if not session.cancelled() and (error := session.exception()) is not None:
            log.error("a defect of vramtap ended a session", exc_info=error)

    def _rejection(self, host: str) -> str | None:
        """Return why the server rejects a connection from this address, None if it serves it."""
        if len(self._sessions) >= self._max_connections:
            return f"{self._max_connections} clients are connected already"
        wait_s = self._throttle.wait_s(host)
        return f"too many wrong passwords, next try in {wait_s:.0f} s" if wait_s else None

    async def _serve(self, connection: socket.socket, address: tuple[str, int]) -> None:
        """Serve one client and count its wrong passwords."""
        peer = host_port(*address[:2])
        with contextlib.closing(connection):
            try:
                stream = TcpStream(connection, peer)
            except OSError as error:
                log.info("%s: left before the session began: %s", peer, error.strerror)
                return
            end = await serve_session(stream, self._tap, self._options)
        if self._options.password is None:
            return
        if end.reason is EndReason.WRONG_PASSWORD:
            self._throttle.record_failure(address[0])
        elif end.admitted:
            self._throttle.record_success(address[0])
