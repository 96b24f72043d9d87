"""/proc of a process: its mappings and their flags, its names and its status."""

from __future__ import annotations

import ctypes
import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vramtap.errors import NotFound, Refused, TargetGone
from vramtap.linux import abi
from vramtap.linux.calls import REMEDY_PTRACE, error_for
from vramtap.linux.descriptor import Descriptor

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class Mapping:
    """A mapping `[start, end)`: one line of /proc/PID/maps (proc_pid_maps(5)); `offset` in bytes."""

    start: int
    end: int
    perms: str
    offset: int
    device: str
    inode: int
    path: str

    @property
    def size_bytes(self) -> int:
        """Length of the mapping, bytes."""
        return self.end - self.start

    @property
    def anonymous(self) -> bool:
        """Whether the mapping has no file; True for heap and stack."""
        return self.inode == 0


def _read(pid: int, name: str) -> bytes:
    """Return the content of a /proc/PID file."""
    path = f"/proc/{pid}/{name}"
    try:
        with open(path, "rb") as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError) as error:
        raise NotFound("read", path, "no such process", "see vramtap ls") from error
    except PermissionError as error:
        raise Refused("read", path, "permission denied", REMEDY_PTRACE) from error
    except OSError as error:
        raise error_for("read", path, error.errno or 0) from error


def _mapping(line: str) -> Mapping:
    """Parse a line of /proc/PID/maps, or the first line of a mapping in smaps."""
    fields = line.split(maxsplit=5)
    start, _, end = fields[0].partition("-")
    path = fields[5] if len(fields) > 5 else ""
    span = int(start, 16), int(end, 16)
    return Mapping(*span, fields[1], int(fields[2], 16), fields[3], int(fields[4]), path)


def _lines(pid: int, name: str) -> list[str]:
    """Return the lines of a /proc/PID file.

    The kernel escapes line feeds in names, but not the other line breaks of Unicode.
    """
    return _read(pid, name).decode("utf-8", "surrogateescape").split("\n")[:-1]


def read_maps(pid: int) -> list[Mapping]:
    """Return all mappings of a process, by address.

    Kernel: /proc/PID/maps, needs ptrace read rights.
    Cost: about 1 ms for a process of a few hundred mappings.

    Raises:
        NotFound: There is no such process.
        Refused: No permission.
    """
    return [_mapping(line) for line in _lines(pid, "maps")]


def readable_end(mappings: Iterable[Mapping], start: int) -> int:
    """Return the end of the readable memory that begins at an address and has no gap.

    Args:
        mappings: By address. Neighbours may differ in all but readability, as when a write log has split
            one of them.
        start: First address.

    Returns:
        The first address from `start` on that is not readable; `start` itself if it is not readable.
    """
    at = start
    for mapping in mappings:
        if mapping.start <= at < mapping.end and mapping.perms.startswith("r"):
            at = mapping.end
    return at


def vm_flags(pid: int) -> list[tuple[Mapping, frozenset[str]]]:
    """Return each mapping with its two-letter VmFlags (`uw`: registered for write protection).

    Kernel: /proc/PID/smaps, CONFIG_PROC_PAGE_MONITOR; walks every page table of the process.
    Cost: milliseconds; for tests and `doctor`, not for polling.
    """
    found = []
    heading = ""
    for line in _lines(pid, "smaps"):
        name, *words = line.split()
        if not name.endswith(":"):
            heading = line
        elif name == "VmFlags:":
            found.append((_mapping(heading), frozenset(words)))
    return found


def cmdline(pid: int) -> list[str]:
    """Return the arguments of a process; empty for a kernel thread or a zombie."""
    return [arg.decode("utf-8", "replace") for arg in _read(pid, "cmdline").split(b"\0")[:-1]]


def comm(pid: int) -> str:
    """Return the short name of a process, at most 15 bytes."""
    return _read(pid, "comm").decode("utf-8", "replace").rstrip("\n")


def exe(pid: int) -> str:
    """Return the path of a process's program.

    Raises:
        NotFound: There is no such process, or it is a kernel thread.
        Refused: No permission.
    """
    try:
        return str(Path(f"/proc/{pid}/exe").readlink())
    except FileNotFoundError as error:
        raise NotFound("readlink", f"/proc/{pid}/exe", "no such process") from error
    except PermissionError as error:
        raise Refused("readlink", f"/proc/{pid}/exe", "permission denied", REMEDY_PTRACE) from error
    except OSError as error:
        raise error_for("readlink", f"/proc/{pid}/exe", error.errno or 0) from error


def status_field(pid: int, name: str) -> str | None:
    """Return a field of /proc/PID/status (`TracerPid`, `Seccomp`, `State`); None if it is absent."""
    for line in _lines(pid, "status"):
        key, _, value = line.partition(":")
        if key == name:
            return value.strip()
    return None


class MapsQuery(Descriptor):
    """A query of a process's mappings that does not read all of its maps.

    Kernel: PROCMAP_QUERY ioctl on /proc/PID/maps, since 6.11 (fs/proc/task_mmu.c), ptrace read rights.
    Cost: about 1 us per mapping. On kernels without the ioctl the query parses the text: about 1 ms.

    Args:
        pid: Process id.

    Raises:
        NotFound: There is no such process.
        Refused: No permission.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        try:
            super().__init__(os.open(f"/proc/{pid}/maps", os.O_RDONLY | os.O_CLOEXEC))
        except (FileNotFoundError, ProcessLookupError) as error:
            raise NotFound("open", f"/proc/{pid}/maps", "no such process", "see vramtap ls") from error
        except PermissionError as error:
            raise Refused("open", f"/proc/{pid}/maps", "permission denied", REMEDY_PTRACE) from error
        except OSError as error:
            raise error_for("open", f"/proc/{pid}/maps", error.errno or 0) from error
        self._query = abi.ProcmapQuery(size=ctypes.sizeof(abi.ProcmapQuery))
        self.fast: bool = self._probe()

    def _probe(self) -> bool:
        """Return whether the kernel has the ioctl: for address 0 it then succeeds or gives ENOENT."""
        self._query.query_addr = 0
        try:
            fcntl.ioctl(self._fd, abi.PROCMAP_QUERY, self._query)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True

    def mapped(self, start: int, end: int) -> bool:
        """Return whether every byte of `[start, end)` is mapped.

        Raises:
            TargetGone: The process has ended.
        """
        if not self.fast:
            return self._mapped_by_text(start, end)
        query, at = self._query, start
        while at < end:
            query.query_addr = at
            try:
                fcntl.ioctl(self._fd, abi.PROCMAP_QUERY, query)
            except FileNotFoundError:
                return False
            except OSError as error:
                raise error_for("PROCMAP_QUERY", f"pid {self.pid} {at:#x}", error.errno or 0) from error
            at = query.vma_end
        return True

    def _mapped_by_text(self, start: int, end: int) -> bool:
        try:
            mappings = read_maps(self.pid)
        except NotFound as error:
            raise TargetGone("read", f"/proc/{self.pid}/maps", "the process has ended") from error
        if not mappings:
            raise TargetGone("read", f"/proc/{self.pid}/maps", "the process has ended")
        at = start
        for mapping in mappings:
            if mapping.start <= at < mapping.end:
                at = mapping.end
        return at >= end
