"""`shm:PATH?mode=WxH`: a framebuffer in a file, be it in /dev/shm, on a disk, or a memfd (/proc/PID/fd/N).

Which process writes a file is not known, and there may be several, so the kernel's write log cannot be
used: the pages are compared. A process that maps the file can be tapped as `pid:` to use the log.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import stat
from typing import TYPE_CHECKING, Final, Self

from vramtap.errors import NotFound, NotTappable, Refused, TargetGone
from vramtap.linux.calls import error_for
from vramtap.memory.extent import Extent
from vramtap.memory.mapped import FileSpace
from vramtap.pages import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray

    from vramtap.display.mode import Mode
    from vramtap.keyboard.events import Input
    from vramtap.targets.url import TargetSpec

_KINDS: Final = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a disk",
}


class FileTarget:
    """Part of a file, shown as pixels. It takes no input and does not end, unless the file is cut short.

    Args:
        spec: `shm:PATH?mode=WxH`, with `format`, `stride` and `offset` as they need be; `offset` is where
            in the file the first pixel lies, in bytes.

    Raises:
        UsageError: a parameter is missing or means nothing.
    """

    def __init__(self, spec: TargetSpec) -> None:
        self.url = spec.url
        self.path = spec.rest
        self.extent: Extent
        self.input: Input | None = None
        self.tolerates_injection = False
        # It is the user's, and stays. A file that is cut short is noticed by whoever reads its pages.
        self.announces_mode = True
        asked = spec.mode()
        self._needs_bytes = asked.end_bytes
        self._first_page = asked.offset_bytes // PAGE_SIZE
        self._mode = dataclasses.replace(asked, offset_bytes=asked.offset_bytes % PAGE_SIZE)
        self._space: FileSpace | None = None

    async def __aenter__(self) -> Self:
        """Open the file; see `Target`."""
        self._space = self._open()
        size = self._space.size_bytes
        if size < self._needs_bytes:
            self._space.close()
            what = f"the file has {size} bytes, the mode needs {self._needs_bytes}"
            raise NotTappable("attach", self.url, what, "compare mode=, stride= and offset=")
        self.extent = Extent(self._space, self._first_page * PAGE_SIZE, self._mode.window[1])
        return self

    def _open(self) -> FileSpace:
        # Opening a pipe waits for a writer, and opening a device may do anything: look first. The file that
        # was looked at is the one that is opened, whatever the path has come to name since.
        try:
            looked = os.open(self.path, os.O_PATH | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFound("attach", self.url, f"no file {self.path}", "is its writer running?") from error
        except PermissionError as error:
            raise Refused("attach", self.url, "permission denied", "needs access to the file") from error
        except OSError as error:
            raise error_for("open", self.path, error.errno or 0) from error
        try:
            kind = stat.S_IFMT(os.fstat(looked).st_mode)
            if kind != stat.S_IFREG:
                what = f"{self.path} is {_KINDS.get(kind, 'no file')}"
                raise NotTappable("attach", self.url, what, "give a regular file, one in /dev/shm or a memfd")
            space = FileSpace(f"/proc/self/fd/{looked}")
        finally:
            os.close(looked)
        space.name = self.path
        return space

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        if self._space is not None:
            self._space.close()

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Do nothing: a file announces no events; see `Target`."""
        return lambda: None

    async def mode(self) -> Mode | None:
        """The geometry the user gave, as long as the file holds it; see `Target`."""
        if self._space is not None and self._space.size_bytes < self._needs_bytes:
            what = f"cut short to {self._space.size_bytes} bytes, {self._needs_bytes} are needed"
            raise TargetGone("read", self.path, what)
        return self._mode

    async def snapshot(self) -> NDArray[np.uint32]:
        """There is no other way to a picture; see `Target`."""
        raise NotTappable("snapshot", self.url, "a file has no screen but its bytes")

    async def gone(self) -> str:
        """Wait for ever: a file stays readable when its writer ends or its name is removed; see `Target`."""
        await asyncio.get_running_loop().create_future()
        return f"{self.path} ended"
