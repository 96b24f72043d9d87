"""`pid:PID?address=...&mode=WxH`: a framebuffer somewhere in the memory of any process."""

from __future__ import annotations

import dataclasses
import errno
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from vramtap.errors import KernelError, NotFound, NotTappable, Refused, TargetGone, UsageError
from vramtap.linux.procfs import Mapping, read_maps
from vramtap.memory.extent import Extent
from vramtap.memory.process import ProcessSpace
from vramtap.pages import PAGE_SIZE, PageRuns
from vramtap.targets.process_exit import process_ended
from vramtap.targets.spans import readable_end
from vramtap.targets.url import TargetSpec, parse_number

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from numpy.typing import NDArray

    from vramtap.display.mode import Mode
    from vramtap.keyboard.events import Input

MAX_PID: Final = 1 << 22
"""The highest process id Linux gives (PID_MAX_LIMIT, include/linux/threads.h)."""


class ProcessTarget:
    """Part of a process's memory, shown as pixels. It takes no input.

    The process is held by a pidfd from before its memory is looked at, so a pid given to another process
    meanwhile is noticed and never read.

    Args:
        spec: `pid:PID?address=A&mode=WxH`, with `format`, `stride` and `offset` as they need be. `address`
            plus `offset` is that of the first pixel; it may lie anywhere in a page.

    Raises:
        UsageError: a parameter is missing or means nothing.
    """

    def __init__(self, spec: TargetSpec) -> None:
        self.url = spec.url
        self.extent: Extent
        self.input: Input | None = None
        self.tolerates_injection = False
        self.announces_mode = True  # It is the user's, and stays.
        pid = parse_number(spec.rest)
        if pid is None or not 0 < pid <= MAX_PID:
            raise UsageError(
                "target", spec.url, f"{spec.rest!r} is no process id", f"1 to {MAX_PID}; see vramtap ls"
            )
        self.pid = pid
        asked = spec.mode()
        self._first = spec.number("address") + asked.offset_bytes
        self._mode = dataclasses.replace(asked, offset_bytes=self._first % PAGE_SIZE)
        self._space: ProcessSpace | None = None

    async def __aenter__(self) -> Self:
        """Attach; see `Target`."""
        self._space = self._open()
        try:
            first, last = self._first // PAGE_SIZE, self._mode.window[1]
            self.extent = Extent(self._space, first * PAGE_SIZE, last)
            self._check_mapped(read_maps(self.pid))
            self._check_readable()
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
            # EINVAL, and since Linux 6.9 ENOENT, is the answer for a thread that does not lead its process.
            raise NotFound(
                "attach", self.url, f"{error.reason}: is {self.pid} a thread?", "give its process"
            ) from error

    def _check_mapped(self, mappings: list[Mapping]) -> None:
        at = readable_end(mappings, self.extent.address)
        if at < self.extent.end:
            what = f"nothing readable is mapped at {at:#x} of {self.extent.address:#x}-{self.extent.end:#x}"
            raise NotTappable("attach", self.url, what, f"compare /proc/{self.pid}/maps")

    def _check_readable(self) -> None:
        """Read the first page and the last: device memory is listed as readable, and is not."""
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
        """Let go of the process."""
        if self._space is not None:
            self._space.close()

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Do nothing: a process announces no events; see `Target`."""
        return lambda: None

    async def mode(self) -> Mode | None:
        """The geometry the user gave; see `Target`."""
        return self._mode

    async def snapshot(self) -> NDArray[np.uint32]:
        """There is no other way to a picture; see `Target`."""
        raise NotTappable("snapshot", self.url, "a process has no screen but its memory")

    async def gone(self) -> str:
        """Wait until the process ends; see `Target`."""
        if self._space is not None:
            await process_ended(self._space.pidfd)
        return f"process {self.pid} exited"
