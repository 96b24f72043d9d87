"""Finds the X displays of this machine by the processes that listen at their sockets."""

from __future__ import annotations

import logging
import os
import re
from typing import Final

from vramtap.errors import VramtapError
from vramtap.targets.discovered import Discovered
from vramtap.targets.x11.server import MAX_DISPLAY, SOCKET_DIRECTORY, Display, server_name, server_pid

_DISPLAY: Final = re.compile(r"X([0-9]{1,5})", re.ASCII)

log: logging.Logger = logging.getLogger(__name__)


def x_targets() -> list[Discovered]:
    """List the X displays of this machine, by number. Nothing is sent to a server."""
    return [_x_target(display) for display in _displays()]


def _displays() -> list[Display]:
    """Return the displays with a socket in the usual directory, or with its abstract name (unix(7))."""
    names: list[str] = []
    try:
        names += os.listdir(SOCKET_DIRECTORY)
    except OSError as error:
        log.debug("X displays: %s", error)  # in most cases no X server has ever run here
    try:
        with open("/proc/net/unix") as sockets:
            prefix = f"@{SOCKET_DIRECTORY}/"
            paths = [line.split()[-1] for line in sockets if prefix in line]
    except OSError as error:
        log.debug("abstract X displays: %s", error)
    else:
        names += [path.removeprefix(prefix) for path in paths]
    matches = (_DISPLAY.fullmatch(name) for name in names)
    numbers = {int(match[1]) for match in matches if match}
    return [Display(number) for number in sorted(numbers) if number <= MAX_DISPLAY]


def _x_target(display: Display) -> Discovered:
    server, pid, reason = "X server", 0, ""
    try:
        pid = server_pid(display)
        server = server_name(pid)
    except VramtapError as error:
        reason = f"{error.reason}: {error.remedy}" if error.remedy else error.reason
    else:
        if server != "Xvfb":
            reason = f"{server} keeps its screen where vramtap cannot follow it; run the programs in an Xvfb"
    return Discovered(url=f"x11:{display}", kind="x11", description=server, pid=pid, reason=reason)
