"""serve(): start a VNC server for each tap and one web server for all of them."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeVar

from vramtap.errors import ListenError, UsageError
from vramtap.servers.listen import MAX_PORT, ListenAddress, host_port, parse_address
from vramtap.servers.vnc.server import VncServer
from vramtap.servers.vnc.session import SessionOptions
from vramtap.servers.web.server import WebServer
from vramtap.tap.tap import Tap

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    from vramtap.machine.machine import Machine

Server = TypeVar("Server", VncServer, WebServer)

DEFAULT_VNC: Final = "127.0.0.1:5900"
DEFAULT_WEB: Final = "127.0.0.1:8080"


@dataclass(frozen=True, slots=True)
class VncEndpoint:
    """An address where VNC clients reach a tap.

    Args:
        tap: The tap.
        host: Literal address.
        port: TCP port.
    """

    tap: Tap
    host: str
    port: int

    def __str__(self) -> str:
        """Return the address as VNC viewers take it: `127.0.0.1::5901`."""
        host, _, port = host_port(self.host, self.port).rpartition(":")
        return f"{host}::{port}"


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where clients reach the taps.

    Args:
        vnc: Addresses of the VNC servers, in the order of the taps. A name with several addresses gives
            several of them for each tap.
        web: URLs of the page with its token, the best one first. Page `/t/N/` shows the Nth tap.
    """

    vnc: tuple[VncEndpoint, ...]
    web: tuple[str, ...]


@contextlib.asynccontextmanager
async def serve(
    taps: Sequence[Tap],
    *,
    vnc: str | ListenAddress | None = DEFAULT_VNC,
    web: str | ListenAddress | None = DEFAULT_WEB,
    password: str | None = None,
    token: str | None = None,
    allow_hosts: Iterable[str] = (),
    view_only: bool = False,
) -> AsyncIterator[Endpoints]:
    """Serve taps to VNC clients and browsers while the context is open.

    Args:
        taps: Open taps. They stay open after the servers have stopped.
        vnc: `HOST:PORT` of the first tap's VNC server; the next taps get the next ports. Port 0 lets the
            kernel choose free ports. None for no VNC server. Every address except loopback requires a
            password.
        web: `HOST:PORT` of the page, None for no page. Every address except loopback requires a token.
        password: VNC password; None admits every client.
        token: Token that browsers must show; None makes one where the address is not loopback.
        allow_hosts: Further names by which browsers reach the page.
        view_only: Whether the servers ignore keys and pointer.

    Yields:
        Where clients reach the taps.

    Raises:
        UsageError: An option is not valid, or there is nothing to serve.
        ListenError: An address is busy, unknown or not of this machine.
        MissingAsset: The installed package lacks the browser client.
    """
    if not taps or (vnc is None and web is None):
        missing = "neither vnc nor web is given" if taps else "there is no target"
        raise UsageError("serve", "", missing)
    options = SessionOptions(password=password, view_only=view_only)
    async with contextlib.AsyncExitStack() as stack:
        vnc_endpoints: list[VncEndpoint] = []
        if vnc is not None:
            first = _address(vnc, "vnc", DEFAULT_VNC)
            for index, tap in enumerate(taps):
                vnc_endpoints += await _start_vnc(stack, tap, first, index, options)
        urls: list[str] = []
        if web is not None:
            address = _address(web, "web", DEFAULT_WEB)
            hosts = tuple(allow_hosts)

            def web_server(port: int) -> WebServer:
                return WebServer(taps, address.host, port, options=options, token=token, allow_hosts=hosts)

            urls = (await _start(stack, web_server, address.port, address)).urls
        yield Endpoints(tuple(vnc_endpoints), tuple(urls))


def _address(value: str | ListenAddress, option: str, example: str) -> ListenAddress:
    return parse_address(value, option, example) if isinstance(value, str) else value


async def _start_vnc(
    stack: contextlib.AsyncExitStack, tap: Tap, first: ListenAddress, index: int, options: SessionOptions
) -> list[VncEndpoint]:
    """Start the VNC server of the tap with this index."""
    named = replace(options, name=f"vramtap {tap.target.url}")
    port = min(first.port + index, MAX_PORT + 1) if first.port else 0
    server = await _start(stack, lambda port: VncServer(tap, first.host, port, named), port, first)
    return [VncEndpoint(tap, host, bound) for host, bound in server.addresses]


async def _start(
    stack: contextlib.AsyncExitStack, make: Callable[[int], Server], port: int, address: ListenAddress
) -> Server:
    """Start a server on a port, or on any free port if the address allows it and the port is busy."""
    try:
        return await stack.enter_async_context(make(port))
    except ListenError:
        if not address.or_any_port:
            raise
    return await stack.enter_async_context(make(0))


@contextlib.asynccontextmanager
async def serve_targets(
    *targets: str | Machine | Tap,
    open_target: Callable[[str | Machine], Tap],
    vnc: str | None,
    web: str | None,
    password: str | None,
    token: str | None,
    view_only: bool,
) -> AsyncIterator[Endpoints]:
    """Open targets and serve them while the context is open. See `vramtap.serve`.

    Args:
        targets: URLs and machines, which are opened and closed here; and open taps, which stay open.
        open_target: Returns the tap of a URL or a machine.
        vnc: As for `serve`.
        web: As for `serve`.
        password: As for `serve`.
        token: As for `serve`.
        view_only: As for `serve`.

    Yields:
        Where clients reach the taps.
    """
    async with contextlib.AsyncExitStack() as stack:
        taps = [
            target if isinstance(target, Tap) else await stack.enter_async_context(open_target(target))
            for target in targets
        ]
        serving = serve(taps, vnc=vnc, web=web, password=password, token=token, view_only=view_only)
        yield await stack.enter_async_context(serving)
