"""Finds the QEMU guests of this machine by the arguments of their processes."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import re
import stat
from typing import TYPE_CHECKING, Final

import numpy as np

from vramtap.errors import KernelError, Refused, VramtapError
from vramtap.linux import procfs
from vramtap.memory.extent import Extent
from vramtap.memory.process import ProcessSpace
from vramtap.pages import PAGE_SIZE, PageRuns
from vramtap.targets.discovered import Discovered
from vramtap.targets.url import format_url

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROGRAM: Final = re.compile(r"qemu-system-\w+|qemu-kvm|kvm|qemu")

log: logging.Logger = logging.getLogger(__name__)


def qemu_targets() -> list[Discovered]:
    """List the QEMU processes that this user can see, by pid. No monitor is connected to."""
    found = []
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdecimal()):
        try:
            target = target_of_process(pid, procfs.cmdline(pid))
        except (VramtapError, OSError) as error:
            # The process ended meanwhile, or this user may not examine it. The others still count.
            log.debug("pid %d: %s", pid, error)
            continue
        if target is not None:
            found.append(target)
    return found


def target_of_process(pid: int, arguments: list[str]) -> Discovered | None:
    """Return the target that a process offers.

    Args:
        pid: Id of the process.
        arguments: Its command line.

    Returns:
        The target with its first QMP socket, or with the reason why there is none. None if the process is
        not a QEMU, or is the device model of a Xen domain: the memory of that guest belongs to the
        hypervisor, and its monitor to libxl.
    """
    if not arguments or not _PROGRAM.fullmatch(os.path.basename(arguments[0])):
        return None
    if "-xen-domid" in arguments:
        return None
    description = f"QEMU {_guest_name(arguments) or os.path.basename(arguments[0])}"

    def found(url: str, reason: str) -> Discovered:
        return Discovered(url=url, kind="qemu", description=description, pid=pid, reason=reason)

    paths = _qmp_paths(arguments)
    for path in paths:
        visible = _visible_path(pid, path)
        if visible is not None:
            return found(format_url("qemu", visible), _refusal(pid, visible))
    if paths:
        reason = f"its QMP socket {paths[0]} does not exist, or this user may not see it"
        return found(format_url("qemu", paths[0]), reason)
    return found("qemu:PATH", "it has no QMP socket; start it with -qmp unix:PATH,server=on,wait=off")


def _refusal(pid: int, path: str) -> str:
    """Return why this user may not tap the QEMU with this socket; empty if nothing prevents it."""
    if not os.access(path, os.W_OK):
        return "no write permission on its QMP socket"
    try:
        # Read a page: a user who may read the list of mappings may still not read the memory (Yama;
        # CAP_SYS_ADMIN without CAP_SYS_PTRACE).
        mappings = procfs.read_maps(pid)
        if not mappings:
            return "it has ended"
        page = np.empty(PAGE_SIZE, np.uint8)
        with contextlib.closing(ProcessSpace(pid)) as space:
            Extent(space, mappings[0].start, 1).read(PageRuns.full(1), page)
    except (Refused, KernelError) as error:
        return f"{error.reason}: {error.remedy}"
    return ""


def _visible_path(pid: int, path: str) -> str | None:
    """Return the path under which vramtap sees a socket of QEMU; None if there is no such socket.

    A path in QEMU's arguments starts at QEMU's working directory and root, which differ in a container.
    """
    # A lookup that fails, for lack of rights or because QEMU ended, means that vramtap cannot see the socket.
    with contextlib.suppress(OSError):
        path = os.path.join(os.readlink(f"/proc/{pid}/cwd"), path)
    for visible in (path, f"/proc/{pid}/root{path}"):
        with contextlib.suppress(OSError):
            if os.path.isabs(visible) and stat.S_ISSOCK(os.stat(visible).st_mode):
                return visible
    return None


def _options(arguments: list[str], name: str) -> Iterator[str]:
    """Yield the values of an option that is written with one dash or two."""
    for option, value in itertools.pairwise(arguments):
        if option.lstrip("-") == name and option.startswith("-"):
            yield value


def _guest_name(arguments: list[str]) -> str:
    """Return the value of `-name`, in its short form or as `guest=`; empty if there is none."""
    for value in _options(arguments, "name"):
        parts = value.split(",")
        names = [part.removeprefix("guest=") for part in parts if part.startswith("guest=")]
        name = names[0] if names else parts[0]
        return name if "=" not in name else ""
    return ""


def _qmp_paths(arguments: list[str]) -> list[str]:
    """Return the paths of unix sockets with QMP.

    They stand in `-qmp unix:PATH,...`, or in a `-chardev socket` that a monitor in control mode uses.
    """
    paths = []
    for option in ("qmp", "qmp-pretty"):
        values = _options(arguments, option)
        paths += [_split(value.removeprefix("unix:"))[0] for value in values if value.startswith("unix:")]
    controls = set()
    for value in _options(arguments, "mon"):
        settings = _settings(value)
        if settings.get("mode") == "control":
            controls.add(settings.get("chardev") or _split(value)[0])
    for value in _options(arguments, "chardev"):
        settings = _settings(value)
        if value.startswith("socket,") and settings.get("id") in controls and settings.get("path"):
            paths.append(settings["path"])
    return paths


def _split(value: str) -> list[str]:
    """Split a value of QEMU's at its commas; a doubled comma is a literal one (util/qemu-option.c)."""
    return [part.replace("\0", ",") for part in value.replace(",,", "\0").split(",")]


def _settings(value: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in _split(value))
    return {name: setting for name, equals, setting in pairs if equals}
