"""Start the VNC servers that are compared, each on its own port."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from support.testbed.errors import TestbedError
from support.testbed.supervise import spawn, stop

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.testbed.guest import Guest
    from support.testbed.xvfb import Xvfb

VRAMTAP: Final = "vramtap"
X11VNC: Final = "x11vnc"
X0VNCSERVER: Final = "x0vncserver"
START_S: Final = 20
"""Longest time for a server to accept connections, seconds."""
_REPORT_S: Final = 10
"""Longest time for vramtap to print its report after SIGINT, seconds."""


@dataclass
class Server:
    """A VNC server that accepts connections.

    Args:
        name: Name in the tables.
        port: TCP port on loopback.
        pid: Process id; 0 for QEMU's own VNC server, which is a part of QEMU.
        report: Statistics that vramtap printed when it ended; empty until then, and for other servers.
    """

    name: str
    port: int
    pid: int
    report: dict[str, Any]


@contextlib.contextmanager
def vramtap(url: str, *arguments: str, name: str = VRAMTAP) -> Iterator[Server]:
    """Run `vramtap serve` on a target; set the server's report when the block ends."""
    program = Path(sys.executable).parent / "vramtap"
    argv: list[str | Path] = [program, "serve", url, "--vnc", "127.0.0.1:0", "--json", *arguments]
    process = spawn(argv, stdout=subprocess.PIPE)
    if process.stdout is None:
        raise TestbedError("vramtap: no pipe")
    try:
        line = process.stdout.readline()
        if not line:
            raise TestbedError(f"vramtap serve {url} ended before it listened; see its error above")
        server = Server(name, int(json.loads(line)["vnc"][1]), process.pid, {})
        yield server
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=_REPORT_S)[0].splitlines()
        server.report = json.loads(rest[-1])["stats"]
    finally:
        stop(process)


@contextlib.contextmanager
def x11vnc(display: str, *arguments: str, name: str = X11VNC) -> Iterator[Server]:
    """Run x11vnc on an X display."""
    port = _free_port()
    argv = ["x11vnc", "-display", display, "-rfbport", str(port), "-listen", "127.0.0.1", "-no6"]
    argv += ["-forever", "-shared", "-nopw", "-quiet", "-norc", *arguments]
    with _listening(name, argv, port) as server:
        yield server


@contextlib.contextmanager
def x0vncserver(display: str) -> Iterator[Server]:
    """Run TigerVNC's x0vncserver on an X display."""
    port = _free_port()
    # Debian's x0vncserver is a script that starts the server and exits, so its own cost says nothing.
    program = shutil.which("X0tigervnc") or "x0vncserver"
    argv = [program, "-display", display, "-rfbport", str(port), "-localhost"]
    argv += ["-SecurityTypes", "None", "-AlwaysShared"]
    with _listening(X0VNCSERVER, argv, port) as server:
        yield server


def on_xvfb(name: str, xvfb: Xvfb, tracker: str = "auto") -> contextlib.AbstractContextManager[Server]:
    """Run one of the servers on an Xvfb.

    Args:
        name: `VRAMTAP`, `X11VNC` or `X0VNCSERVER`.
        xvfb: The X server to show.
        tracker: vramtap's tracker, named as in `--tracker`.
    """
    if name == VRAMTAP:
        return vramtap(xvfb.url, "--tracker", tracker)
    return {X11VNC: x11vnc, X0VNCSERVER: x0vncserver}[name](xvfb.display)


def qemu_vnc(guest: Guest) -> Server:
    """Return QEMU's own VNC server of a guest that was started with `-vnc`."""
    answer = guest.monitor.execute("query-vnc")
    return Server("QEMU's VNC", int(answer["service"]), 0, {})


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _listening(name: str, argv: list[str], port: int) -> Iterator[Server]:
    process = spawn(argv, stderr=subprocess.DEVNULL)
    try:
        for _ in range(START_S * 10):
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            if process.poll() is not None:
                raise TestbedError(f"{name} ended with status {process.returncode}")
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
        else:
            raise TestbedError(f"{name} does not listen on port {port}")
        yield Server(name, port, process.pid, {})
    finally:
        stop(process)
