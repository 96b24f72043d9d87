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


@dataclasses.dataclass(frozen=True)
class Serving:
    """How targets are served: what the options of `serve` say, unchecked.

    Args:
        vnc: `HOST:PORT`, or None.
        web: `HOST:PORT`, or None.
        tracker: Name of the tracker.
        latency: How late a first change may be noticed where the target must be asked, milliseconds.
        guest_cost_factor: Of the guest's time against ours.
        password_file: File with the VNC password.
        token: What browsers must show.
        allow_host: Names by which browsers reach this host.
        view_only: Ignore input.
        as_json: Print JSON lines.
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
    click.option("--vnc", metavar="HOST:PORT", help=f"Listen for VNC clients [{DEFAULT_VNC}]; port 0: any."),
    click.option("--web", metavar="HOST:PORT", help=f"Listen for browsers [{DEFAULT_WEB}]; port 0: any."),
    click.option("--tracker", type=click.Choice(NAMES), default="auto", help="How writes are found."),
    click.option(
        "--latency",
        type=float,
        metavar="MS",
        default=IDLE_INTERVAL_S * 1000,
        show_default=True,
        help="How often an idle target is asked that cannot wake us.",
    ),
    click.option(
        "--guest-cost-factor",
        type=float,
        metavar="W",
        default=1.0,
        show_default=True,
        help="A microsecond of the guest's counts as so many of ours.",
    ),
    click.option(
        "--password-file", type=click.Path(path_type=Path), help="VNC password: the file's first line."
    ),
    click.option("--token", help="What browsers must show; made by itself where not on loopback."),
    click.option(
        "--allow-host", multiple=True, metavar="NAME", help="A name by which browsers reach this host."
    ),
    click.option("--view-only", is_flag=True, help="Ignore keys and pointer."),
    click.option("--json", "as_json", is_flag=True, help="Print addresses and the report as JSON lines."),
)


def options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that `Serving` is made of."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command()
@click.argument("targets", metavar="TARGET...", nargs=-1, required=True)
@options
@run.command
async def command(targets: tuple[str, ...], **how: Any) -> None:  # noqa: ANN401 - click's, checked by Serving
    """Show every TARGET to VNC clients and browsers until all have ended, or Ctrl-C.

    With neither --vnc nor --web both are served. Several targets get VNC ports one after the other, and a
    page each. The VNC password is read from --password-file or from the variable VRAMTAP_PASSWORD, never
    from the command line, where every user could read it.
    """
    await serve(targets, Serving(**how), "Ctrl-C ends it; the targets go on.")


async def serve(targets: Iterable[str], how: Serving, note: str) -> None:
    """Serve targets until all have ended.

    Args:
        targets: TARGET strings.
        how: The options.
        note: Last line printed for people once the servers run.

    Raises:
        VramtapError: A target cannot be tapped, or an address cannot be listened on.
    """
    both = how.vnc is None and how.web is None
    vnc = _address("--vnc", how.vnc, DEFAULT_VNC) if both or how.vnc else None
    web = _address("--web", how.web, DEFAULT_WEB) if both or how.web else None
    password = _password(how.password_file)
    options = TrackerOptions(how.latency / 1000, how.guest_cost_factor)
    taps = [Tap(open_target(url), tracker=how.tracker, options=options) for url in targets]
    async with contextlib.AsyncExitStack() as stack:
        for tap in taps:
            await stack.enter_async_context(tap)
        endpoints = await stack.enter_async_context(
            servers.serve(
                taps,
                vnc=vnc,
                web=web,
                password=password,
                token=how.token,
                allow_hosts=how.allow_host,
                view_only=how.view_only,
            )
        )
        for endpoint in endpoints.vnc:
            fields: dict[str, object] = {
                "target": endpoint.tap.target.url,
                "vnc": [endpoint.host, endpoint.port],
            }
            _say(how.as_json, fields, f"VNC  {endpoint}", endpoint.tap)
        for url in endpoints.web:
            _say(how.as_json, {"web": url}, f"page {url}", taps[0] if len(taps) == 1 else None)
        for tap in taps:
            stack.callback(_report, tap, how.as_json)
        if not how.as_json:
            click.echo(note)
        await asyncio.gather(*(tap.ended() for tap in taps))


def _address(option: str, text: str | None, default: str) -> ListenAddress:
    """Parse an address. The default address gives way to any free port if its port is busy."""
    address = parse_address(text or default, option, default)
    return address if text is not None else address._replace(or_any_port=True)


def _password(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get(PASSWORD_VARIABLE) or None
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("--password-file", str(file), str(error)) from error
    if not lines or not lines[0]:
        raise UsageError("--password-file", str(file), "its first line is empty", "write the password there")
    return lines[0]


def _say(as_json: bool, fields: dict[str, object], line: str, tap: Tap | None) -> None:
    shown = ""
    if tap is not None:
        shown = f"  {tap.target.url} {tap.screen.width}x{tap.screen.height}, tracker {tap.stats.tracker}"
    click.echo(json.dumps(fields) if as_json else f"{line}{shown}")


def _report(tap: Tap, as_json: bool) -> None:
    """What the tap saw, when it ends."""
    stats = tap.stats
    if as_json:
        click.echo(json.dumps({"target": tap.target.url, "ended": tap.closed, "stats": stats.as_dict()}))
        return
    if tap.closed is not None:
        click.echo(f"{tap.target.url}: {tap.closed}")
    everything = ", ".join(f"{reason} {count}" for reason, count in sorted(stats.all_dirty.items()))
    click.echo(
        f"{tap.target.url}: {stats.updates} updates; {stats.dirty_pages} pages written, "
        f"{stats.bytes_read / 1e6:.1f} MB read; tracker {stats.tracker} ({stats.tracker_why}), "
        f"{stats.polls} looks of {stats.scan_us:.0f} us; everything: {everything or 'never'}; "
        f"target stopped {stats.stopped_us:.0f} us at attach"
    )
