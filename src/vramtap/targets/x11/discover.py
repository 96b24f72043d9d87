"""The X displays of this machine, by who listens at their sockets; none is connected to."""

from __future__ import annotations

import logging
import os
import re
from typing import Final

from vramtap.errors import VramtapError
from vramtap.targets.discovered import Discovered
from vramtap.targets.x11.connection import MAX_DISPLAY, SOCKET_DIRECTORY, Display, server_name, server_pid

_DISPLAY: Final = re.compile(r"X([0-9]{1,5})", re.ASCII)

log = logging.getLogger(__name__)


def x_targets() -> list[Discovered]:
    """The X displays of this machine, by number."""
    return [_x_target(display) for display in _displays()]


def _displays() -> list[Display]:
    """Displays with a socket in the usual directory, or with its abstract namesake (unix(7))."""
    names: list[str] = []
    try:
        names += os.listdir(SOCKET_DIRECTORY)
    except OSError as error:
        log.debug("X displays: %s", error)  # most often: no X server has ever run here
    try:
        with open("/proc/net/unix") as sockets:
            prefix = f"@{SOCKET_DIRECTORY}/"
            last = [line.split()[-1] for line in sockets if prefix in line]
    except OSError as error:
        log.debug("abstract X displays: %s", error)
    else:
        names += [name.removeprefix(prefix) for name in last]
    matches = (_DISPLAY.fullmatch(name) for name in names)
    numbers = {int(match[1]) for match in matches if match}
    return [Display(number) for number in sorted(numbers) if number <= MAX_DISPLAY]


def _x_target(display: Display) -> Discovered:
    url = f"x11:{display}"
    try:
        pid = server_pid(display)
    except VramtapError as error:
        return Discovered(url, "X server", 0, False, error.reason)
    try:
        server = server_name(pid)
    except VramtapError as error:
        return Discovered(
            url, "X server", pid, False, f"{error.reason}: {error.remedy}" if error.remedy else error.reason
        )
    if server == "Xvfb":
        return Discovered(url, server, pid, True)
    why = f"{server} keeps its screen where it cannot be followed; run the programs in an Xvfb"
    return Discovered(url, server, pid, False, why)
