"""Target `shm:PATH?mode=WxH`: a framebuffer in a file, be it in /dev/shm or a memfd (/proc/PID/fd/N).

vramtap does not know which processes write the file, so it cannot use the kernel's write log, and compares
the pages instead. To use the log, tap a process that maps the file as `pid:`.
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
    """Part of a file, shown as pixels. It takes no input, and ends only when the file is truncated.

    Args:
        spec: `shm:PATH?mode=WxH`, optionally with `format`, `stride` and `offset`. `offset` is the position
            of the first pixel in the file, in bytes.

    Raises:
        UsageError: a parameter is missing or not valid.
    """

    def __init__(self, spec: TargetSpec) -> None:
        self.url: str = spec.url
        self.path: str = spec.rest
        self.extent: Extent
        self.input: Input | None = None
        self.tolerates_injection = False
        # The user gave the mode, and it never changes. A read of the pages notices a truncated file.
        self.announces_mode = True
        mode = spec.mode()
        self._needs_bytes = mode.end_bytes
        self._first_page = mode.offset_bytes // PAGE_SIZE
        self._mode = dataclasses.replace(mode, offset_bytes=mode.offset_bytes % PAGE_SIZE)
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
        # To open a pipe is to wait for a writer, and to open a device may have any effect. So the kind is
        # checked first, through a descriptor that opens nothing. The file is then opened through that
        # descriptor, because the path may name another file by now.
        try:
            checked = os.open(self.path, os.O_PATH | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFound(
                "attach", self.url, f"no file {self.path}", "is the program that writes it running?"
            ) from error
        except PermissionError as error:
            raise Refused("attach", self.url, "permission denied", "needs access to the file") from error
        except OSError as error:
            raise error_for("open", self.path, error.errno or 0) from error
        try:
            kind = stat.S_IFMT(os.fstat(checked).st_mode)
            if kind != stat.S_IFREG:
                what = f"{self.path} is {_KINDS.get(kind, 'not a regular file')}"
                raise NotTappable(
                    "attach", self.url, what, "give a regular file, for instance in /dev/shm, or a memfd"
                )
            space = FileSpace(f"/proc/self/fd/{checked}")
        finally:
            os.close(checked)
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
        """Return the mode that the user gave, while the file is large enough; see `Target`."""
        if self._space is not None and self._space.size_bytes < self._needs_bytes:
            what = f"truncated to {self._space.size_bytes} bytes, {self._needs_bytes} are needed"
            raise TargetGone("read", self.path, what)
        return self._mode

    async def snapshot(self) -> NDArray[np.uint32]:
        """Raise `NotTappable`: a file has no picture but its bytes; see `Target`."""
        raise NotTappable("snapshot", self.url, "a file has no screen but its bytes")

    async def gone(self) -> str:
        """Wait for ever: neither the end of the writer nor unlink() ends a file; see `Target`."""
        await asyncio.get_running_loop().create_future()
        return f"{self.path} ended"
