"""Target `pid:PID?address=...&mode=WxH`: a framebuffer at an address of any process."""

from __future__ import annotations

import dataclasses
import errno
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from vramtap.errors import KernelError, NotFound, NotTappable, Refused, TargetGone, UsageError
from vramtap.linux.procfs import Mapping, read_maps, readable_end
from vramtap.memory.extent import Extent
from vramtap.memory.process import ProcessSpace
from vramtap.pages import PAGE_SIZE, PageRuns
from vramtap.targets.process_exit import ProcessExit
from vramtap.targets.url import TargetSpec, parse_number

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from numpy.typing import NDArray

    from vramtap.display.mode import Mode
    from vramtap.keyboard.events import Input

MAX_PID: Final = 1 << 22
"""Upper bound of process ids on Linux (PID_MAX_LIMIT, include/linux/threads.h)."""


class ProcessTarget:
    """Part of a process's memory, shown as pixels. It takes no input.

    vramtap opens a pidfd before it reads the memory. If the kernel reuses the pid for another process
    meanwhile, vramtap notices and never reads that process.

    Args:
        spec: `pid:PID?address=A&mode=WxH`, optionally with `format`, `stride` and `offset`. The first pixel
            is at `address` plus `offset`, which may be anywhere in a page.

    Raises:
        UsageError: a parameter is missing or not valid.
    """

    def __init__(self, spec: TargetSpec) -> None:
        self.url: str = spec.url
        self.extent: Extent
        self.input: Input | None = None
        self.tolerates_injection = False
        self.announces_mode = True  # The user gave the mode, and it never changes.
        pid = parse_number(spec.rest)
        if pid is None or not 0 < pid <= MAX_PID:
            raise UsageError(
                "target", spec.url, f"{spec.rest!r} is not a process id", f"1 to {MAX_PID}; see vramtap ls"
            )
        self.pid = pid
        mode = spec.mode()
        self._first = spec.number("address") + mode.offset_bytes
        self._mode = dataclasses.replace(mode, offset_bytes=self._first % PAGE_SIZE)
        self._space: ProcessSpace | None = None
        self._exit: ProcessExit | None = None

    async def __aenter__(self) -> Self:
        """Attach; see `Target`."""
        self._space = self._open()
        try:
            first, last = self._first // PAGE_SIZE, self._mode.window[1]
            self.extent = Extent(self._space, first * PAGE_SIZE, last)
            self._check_mapped(read_maps(self.pid))
            self._check_readable()
            self._exit = ProcessExit(self._space.pidfd)
        except BaseException:
            self._space.close()
            raise
        return self

    def _open(self) -> ProcessSpace:
        try:
            return ProcessSpace(self.pid)
        except TargetGone as error:
            raise NotFound("attach", self.url, f"no process {self.pid}", "see vramtap ls") from error
        except KernelError as error:
            # EINVAL, since Linux 6.9 ENOENT, means a thread that is not the leader of its process.
            raise NotFound(
                "attach", self.url, f"{error.reason}: is {self.pid} a thread?", "give the id of its process"
            ) from error

    def _check_mapped(self, mappings: list[Mapping]) -> None:
        at = readable_end(mappings, self.extent.address)
        if at < self.extent.end:
            what = f"nothing readable is mapped at {at:#x} of {self.extent.address:#x}-{self.extent.end:#x}"
            raise NotTappable("attach", self.url, what, f"compare /proc/{self.pid}/maps")

    def _check_readable(self) -> None:
        """Read the first and the last page, because device memory is listed as readable but is not."""
        page = np.empty(PAGE_SIZE, np.uint8)
        try:
            for index in (0, self.extent.pages - 1):
                self.extent.read(PageRuns([(index, index + 1)]), page, index)
        except TargetGone as error:
            raise NotFound("attach", self.url, f"process {self.pid} has ended", "see vramtap ls") from error
        except KernelError as error:
            if error.errno in (errno.EPERM, errno.EACCES):
                raise Refused("attach", self.url, error.reason, error.remedy) from error
            what = f"{error.operation} {error.reason}"
            raise NotTappable("attach", self.url, what, "is it the memory of a device?") from error

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the process's memory; see `Target`."""
        if self._exit is not None:
            self._exit.close()
        if self._space is not None:
            self._space.close()

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Do nothing: a process announces no events; see `Target`."""
        return lambda: None

    async def mode(self) -> Mode | None:
        """Return the mode that the user gave; see `Target`."""
        return self._mode

    async def snapshot(self) -> NDArray[np.uint32]:
        """Raise `NotTappable`: a process has no picture but its memory; see `Target`."""
        raise NotTappable("snapshot", self.url, "a process has no screen but its memory")

    async def gone(self) -> str:
        """Wait until the process ends; see `Target`."""
        if self._exit is not None:
            await self._exit.wait()
        return f"process {self.pid} exited"
