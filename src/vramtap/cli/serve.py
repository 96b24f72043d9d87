"""`vramtap serve`: show targets to VNC clients and browsers until they end or Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from vramtap.cli import run
from vramtap.cli._target import TARGET_HELP
from vramtap.errors import UsageError
from vramtap.servers import serve as servers
from vramtap.servers.listen import ListenAddress, parse_address
from vramtap.servers.serve import DEFAULT_VNC, DEFAULT_WEB
from vramtap.tap.tap import Tap
from vramtap.targets.open import open_target
from vramtap.trackers.choose import NAMES, TrackerOptions
from vramtap.trackers.poller import IDLE_INTERVAL_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

PASSWORD_VARIABLE: Final = "VRAMTAP_PASSWORD"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """The options of `serve` as the user gave them, unchecked.

    Args:
        vnc: `HOST:PORT` for VNC clients, or None.
        web: `HOST:PORT` for browsers, or None.
        tracker: Name of the tracker.
        latency: Poll interval for targets that cannot wake vramtap, milliseconds.
        guest_cost_factor: Weight of guest CPU time relative to vramtap's.
        password_file: File with the VNC password, or None.
        token: Token that browsers must send, or None.
        allow_host: Names by which browsers reach this host.
        view_only: Whether to ignore keys and pointer.
        as_json: Whether to print JSON lines.
    """

    vnc: str | None
    web: str | None
    tracker: str
    latency: float
    guest_cost_factor: float
    password_file: Path | None
    token: str | None
    allow_host: tuple[str, ...]
    view_only: bool
    as_json: bool


_OPTIONS: Final = (
    click.option(
        "--vnc",
        metavar="HOST:PORT",
        help=f"Address for VNC clients; port 0 takes a free one.  [default: {DEFAULT_VNC}]",
    ),
    click.option(
        "--web",
        metavar="HOST:PORT",
        help=f"Address for browsers; port 0 takes a free one.  [default: {DEFAULT_WEB}]",
    ),
    click.option(
        "--tracker",
        type=click.Choice(NAMES),
        default="auto",
        show_default=True,
        help="How vramtap finds written pages.",
    ),
    click.option(
        "--latency",
        type=float,
        metavar="MS",
        default=IDLE_INTERVAL_S * 1000,
        show_default=True,
        help="Poll interval for targets that cannot wake vramtap, ms.",
    ),
    click.option(
        "--guest-cost-factor",
        type=float,
        metavar="FACTOR",
        default=1.0,
        show_default=True,
        help="Weight of guest CPU time relative to vramtap's. A larger one spares the guest.",
    ),
    click.option(
        "--password-file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help=f"File whose first line is the VNC password.  [default: the variable {PASSWORD_VARIABLE}]",
    ),
    click.option(
        "--token",
        help="Token that browsers must send.  [default: none on loopback, otherwise a random one]",
    ),
    click.option(
        "--allow-host",
        multiple=True,
        metavar="NAME",
        help="Host name by which browsers reach this machine; may be repeated.",
    ),
    click.option("--view-only", is_flag=True, help="Ignore keys and pointer of all viewers."),
    click.option("--json", "as_json", is_flag=True, help="Print addresses and the report as JSON lines."),
)


def options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that `ServeOptions` is made of."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command(epilog=TARGET_HELP)
@click.argument("targets", metavar="TARGET...", nargs=-1, required=True)
@options
@run.command
async def command(targets: tuple[str, ...], **given: Any) -> None:  # noqa: ANN401 - given by click
    """Show every TARGET to VNC clients and browsers, until all targets have ended or Ctrl-C.

    Without --vnc and --web, both are served. Several targets get consecutive VNC ports, and a page each. A
    default port that is taken is replaced by a free one; the addresses are printed.

    An address that other machines can reach needs a password for VNC and a token for browsers. The VNC
    password comes from --password-file or from the variable VRAMTAP_PASSWORD. It is never on the command
    line, which every user of the machine can read.

    \b
    Examples:
      vramtap serve qemu:/run/vm.qmp
      vramtap serve x11::99 --vnc 127.0.0.1:5901
      vramtap serve xen:debian --web 0.0.0.0:8080 --allow-host dom0.example
    """
    await serve(targets, ServeOptions(**given), "Ctrl-C ends it; the targets go on.")


async def serve(targets: Iterable[str], options: ServeOptions, note: str) -> None:
    """Show targets until all have ended.

    Args:
        targets: TARGET strings.
        options: The options of the command.
        note: Last line that is printed before the viewers come, without --json.

    Raises:
        UsageError: An option is not valid.
        VramtapError: A target cannot be tapped, or an address cannot be listened on.
    """
    both = options.vnc is None and options.web is None
    vnc = _address("--vnc", options.vnc, DEFAULT_VNC) if both or options.vnc else None
    web = _address("--web", options.web, DEFAULT_WEB) if both or options.web else None
    password = _password(options.password_file)
    tracking = TrackerOptions(options.latency / 1000, options.guest_cost_factor)
    taps = [Tap(open_target(url), tracker=options.tracker, options=tracking) for url in targets]
    async with contextlib.AsyncExitStack() as stack:
        for tap in taps:
            await stack.enter_async_context(tap)
        endpoints = await stack.enter_async_context(
            servers.serve(
                taps,
                vnc=vnc,
                web=web,
                password=password,
                token=options.token,
                allow_hosts=options.allow_host,
                view_only=options.view_only,
            )
        )
        for endpoint in endpoints.vnc:
            address = [endpoint.host, endpoint.port]
            fields: dict[str, object] = {"target": endpoint.tap.target.url, "vnc": address}
            _print_address(fields, f"VNC  {endpoint}", endpoint.tap, as_json=options.as_json)
        only = taps[0] if len(taps) == 1 else None
        for url in endpoints.web:
            _print_address({"web": url}, f"page {url}", only, as_json=options.as_json)
        for tap in taps:
            stack.callback(_report, tap, as_json=options.as_json)
        if not options.as_json:
            click.echo(note)
        await asyncio.gather(*(tap.ended() for tap in taps))


def _address(option: str, text: str | None, default: str) -> ListenAddress:
    """Parse an option's address, or the default address, whose port gives way to a free one if it is taken.

    Raises:
        UsageError: The text is not `HOST:PORT`.
    """
    address = parse_address(text or default, option, default)
    return address if text is not None else address._replace(or_any_port=True)


def _password(file: Path | None) -> str | None:
    """Return the VNC password of the file, or of the environment; None if there is none.

    Raises:
        UsageError: The file has no password.
    """
    if file is None:
        return os.environ.get(PASSWORD_VARIABLE) or None
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("--password-file", str(file), str(error)) from error
    if not lines or not lines[0]:
        raise UsageError("--password-file", str(file), "its first line is empty", "write the password there")
    return lines[0]


def _print_address(fields: dict[str, object], line: str, tap: Tap | None, *, as_json: bool) -> None:
    """Print an address as JSON, or as a line that also describes the tap, if any."""
    if as_json:
        click.echo(json.dumps(fields))
        return
    described = ""
    if tap is not None:
        size = f"{tap.screen.width}x{tap.screen.height}"
        described = f"  {tap.target.url} {size}, tracker {tap.stats.tracker}"
    click.echo(f"{line}{described}")


def _report(tap: Tap, *, as_json: bool) -> None:
    """Print a tap's statistics at its end, and why it ended."""
    stats = tap.stats
    if as_json:
        click.echo(json.dumps({"target": tap.target.url, "ended": tap.closed, "stats": stats.as_dict()}))
        return
    if tap.closed is not None:
        click.echo(f"{tap.target.url}: {tap.closed}")
    all_dirty = ", ".join(f"{reason} {count}" for reason, count in sorted(stats.all_dirty.items()))
    click.echo(
        f"{tap.target.url}: {stats.updates} updates; {stats.dirty_pages} pages written, "
        f"{stats.bytes_read / 1e6:.1f} MB read; tracker {stats.tracker} ({stats.tracker_why}), "
        f"{stats.polls} scans of {stats.scan_us:.0f} us; all dirty: {all_dirty or 'never'}; "
        f"target stopped {stats.stopped_us:.0f} us at attach"
    )
