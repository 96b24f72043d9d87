"""/proc of a process: its mappings, their flags, and who it is."""

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
    """One line of /proc/PID/maps (proc_pid_maps(5)); addresses half-open, sizes in bytes."""

    start: int
    end: int
    perms: str
    offset: int
    device: str
    inode: int
    path: str

    @property
    def size_bytes(self) -> int:
        """Length in bytes."""
        return self.end - self.start

    @property
    def anonymous(self) -> bool:
        """Whether no file is behind it (heap and stack count as anonymous)."""
        return self.inode == 0


def _read(pid: int, name: str) -> bytes:
    """A whole /proc/PID file."""
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
    """A line of /proc/PID/maps, or the one that begins a mapping in smaps."""
    fields = line.split(maxsplit=5)
    start, _, end = fields[0].partition("-")
    path = fields[5] if len(fields) > 5 else ""
    span = int(start, 16), int(end, 16)
    return Mapping(*span, fields[1], int(fields[2], 16), fields[3], int(fields[4]), path)


def _lines(pid: int, name: str) -> list[str]:
    """Of a /proc/PID file; in names that it holds only line feeds are escaped, no other breaks of Unicode."""
    return _read(pid, name).decode("utf-8", "surrogateescape").split("\n")[:-1]


def read_maps(pid: int) -> list[Mapping]:
    """All mappings of a process, by address.

    Kernel: /proc/PID/maps, needs ptrace read rights.
    Cost: about 1 ms for a process of a few hundred mappings.

    Raises:
        NotFound: no such process.
        Refused: no permission.
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
    """Each mapping with its two-letter VmFlags (`uw`: a userfaultfd may write-protect it).

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


def start_time_ticks(pid: int) -> int:
    """When the process started, in clock ticks since boot: with the pid, its identity (proc_pid_stat(5))."""
    return int(_read(pid, "stat").rpartition(b")")[2].split()[19])


def cmdline(pid: int) -> list[str]:
    """Its arguments; empty for a kernel thread or a zombie."""
    return [arg.decode("utf-8", "replace") for arg in _read(pid, "cmdline").split(b"\0")[:-1]]


def comm(pid: int) -> str:
    """Its short name (at most 15 bytes)."""
    return _read(pid, "comm").decode("utf-8", "replace").rstrip("\n")


def exe(pid: int) -> str:
    """The path of its program.

    Raises:
        NotFound: no such process, or a kernel thread.
        Refused: no permission.
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
    """A field of /proc/PID/status (`TracerPid`, `Seccomp`, `State`); None where the kernel has none."""
    for line in _lines(pid, "status"):
        key, _, value = line.partition(":")
        if key == name:
            return value.strip()
    return None


class MapsQuery(Descriptor):
    """Asks whether an address range is one process's memory, without reading all of its maps.

    Kernel: PROCMAP_QUERY ioctl on /proc/PID/maps, since 6.11 (fs/proc/task_mmu.c), ptrace read rights.
    Cost: about 1 us a mapping asked about; where the ioctl is missing the text is parsed, about 1 ms.

    Args:
        pid: Whose memory.

    Raises:
        NotFound: no such process.
        Refused: no permission.
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
        self.fast = self._probe()

    def _probe(self) -> bool:
        """Whether the ioctl answers here: asked about address 0, ENOENT is an answer, ENOTTY is not."""
        self._query.query_addr = 0
        try:
            fcntl.ioctl(self._fd, abi.PROCMAP_QUERY, self._query, True)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True

    def mapped(self, start: int, end: int) -> bool:
        """Whether every byte of `[start, end)` has a mapping behind it.

        Raises:
            TargetGone: the process has ended.
        """
        if not self.fast:
            return self._mapped_by_text(start, end)
        query, at = self._query, start
        while at < end:
            query.query_addr = at
            try:
                fcntl.ioctl(self._fd, abi.PROCMAP_QUERY, query, True)
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
