"""What can be tapped on this machine: QEMU guests, Xen domains, X displays, found without disturbing any.

Nothing is connected to that could notice: a QEMU monitor serves one client at a time, and asking would take
it from whoever has it. So QEMU is known by its arguments, a Xen domain by what xenstore says of it, and an X
server by who listens at its socket.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import re
import stat
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import numpy as np

from vramtap.errors import KernelError, Refused, VramtapError
from vramtap.linux import procfs
from vramtap.memory.extent import Extent
from vramtap.memory.process import ProcessSpace
from vramtap.pages import PAGE_SIZE, PageRuns
from vramtap.targets.discovered import PLAIN, Discovered
from vramtap.targets.xen.discover import xen_targets

if TYPE_CHECKING:
    from collections.abc import Iterator

_QEMU: Final = re.compile(r"qemu-system-\w+|qemu-kvm|kvm|qemu")

log = logging.getLogger(__name__)


def discover() -> list[Discovered]:
    """Everything with a screen that this user can see.

    Returns:
        QEMU guests by pid, Xen domains by id, X displays by number. What cannot be looked at is left out,
        with a line in the log.
    """
    found = []
    for pid in _processes():
        try:
            found += qemu_targets(pid, procfs.cmdline(pid))
        except (VramtapError, OSError) as error:
            # It ended while we looked, or is not ours to see; the others still are.
            log.debug("pid %d: %s", pid, error)
    return [*found, *xen_targets(), *_x_targets()]


def _x_targets() -> list[Discovered]:
    try:
        from vramtap.targets.x11.discover import x_targets
    except (ImportError, OSError) as error:
        # A dom0 or a server without libxcb has guests all the same.
        log.info("X displays are not looked for: %s", error)
        return []
    return x_targets()


def _processes() -> list[int]:
    return sorted(int(name) for name in os.listdir("/proc") if name.isdecimal())


# QEMU


def qemu_targets(pid: int, arguments: list[str]) -> list[Discovered]:
    """What a process offers, if it is a QEMU.

    Args:
        pid: Its id.
        arguments: Of its command line.

    Returns:
        Nothing if it is no QEMU; else one entry: with its first QMP socket, or with why there is none.
    """
    if not arguments or not _QEMU.fullmatch(os.path.basename(arguments[0])):
        return []
    if "-xen-domid" in arguments:
        # A domain's device model: its guest's memory is the hypervisor's, and its monitor is libxl's.
        return []
    what = f"QEMU {_guest_name(arguments) or os.path.basename(arguments[0])}"
    missing = ""
    for path in _qmp_paths(arguments):
        seen = _seen_path(pid, path)
        if seen is not None:
            why = _refusal(pid, seen)
            return [Discovered(f"qemu:{quote(seen, safe=PLAIN)}", what, pid, not why, why)]
        missing = missing or path
    if missing:
        why = f"its QMP socket {missing} is not there, or not ours to see"
        return [Discovered(f"qemu:{quote(missing, safe=PLAIN)}", what, pid, False, why)]
    why = "it has no QMP socket; start it with -qmp unix:PATH,server=on,wait=off"
    return [Discovered("qemu:PATH", what, pid, False, why)]


def _refusal(pid: int, path: str) -> str:
    """Why this user may not tap a QEMU with this socket; empty if nothing is in the way."""
    if not os.access(path, os.W_OK):
        return "no write permission on its QMP socket"
    try:
        # Who may see its mappings may not always see the memory (Yama; CAP_SYS_ADMIN without CAP_SYS_PTRACE).
        mappings = procfs.read_maps(pid)
        if not mappings:
            return "it has ended"
        page = np.empty(PAGE_SIZE, np.uint8)
        with contextlib.closing(ProcessSpace(pid)) as space:
            Extent(space, mappings[0].start, 1).read(PageRuns.full(1), page)
    except (Refused, KernelError) as error:
        return f"{error.reason}: {error.remedy}"
    return ""


def _seen_path(pid: int, path: str) -> str | None:
    """Where we find a socket that QEMU was told of; None if it is not there.

    QEMU's path starts at its own working directory and its own root, which a container makes another.
    """
    with contextlib.suppress(OSError):
        path = os.path.join(os.readlink(f"/proc/{pid}/cwd"), path)
    for seen in (path, f"/proc/{pid}/root{path}"):
        with contextlib.suppress(OSError):
            if os.path.isabs(seen) and stat.S_ISSOCK(os.stat(seen).st_mode):
                return seen
    return None


def _options(arguments: list[str], name: str) -> Iterator[str]:
    """The values of an option, with one dash or two."""
    for option, value in itertools.pairwise(arguments):
        if option.lstrip("-") == name and option.startswith("-"):
            yield value


def _guest_name(arguments: list[str]) -> str:
    """What `-name` says, in its short form or as `guest=`."""
    for value in _options(arguments, "name"):
        parts = value.split(",")
        named = [part.removeprefix("guest=") for part in parts if part.startswith("guest=")]
        name = named[0] if named else parts[0]
        return name if "=" not in name else ""
    return ""


def _qmp_paths(arguments: list[str]) -> list[str]:
    """Unix sockets with QMP: `-qmp unix:PATH,...`, or a `-chardev socket` that a control monitor uses."""
    paths = []
    for option in ("qmp", "qmp-pretty"):
        for value in _options(arguments, option):
            if value.startswith("unix:"):
                paths.append(_first_value(value.removeprefix("unix:")))
    controls = set()
    for value in _options(arguments, "mon"):
        settings = _settings(value)
        if settings.get("mode") == "control":
            controls.add(settings.get("chardev") or _first_value(value))
    for value in _options(arguments, "chardev"):
        settings = _settings(value)
        if value.startswith("socket,") and settings.get("id") in controls and settings.get("path"):
            paths.append(settings["path"])
    return paths


def _split(value: str) -> list[str]:
    """QEMU's comma-separated parts; a doubled comma stands for one (util/qemu-option.c)."""
    return [part.replace("\0", ",") for part in value.replace(",,", "\0").split(",")]


def _first_value(value: str) -> str:
    return _split(value)[0]


def _settings(value: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in _split(value))
    return {name: setting for name, equals, setting in pairs if equals}
