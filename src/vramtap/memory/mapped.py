"""Memory behind a file (a regular file, tmpfs, memfd) as an address space."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from vramtap.errors import NotFound, Refused, TargetGone
from vramtap.linux.calls import error_for
from vramtap.pages import PAGE_SIZE, PageRuns

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class FileSpace:
    """Bytes of a file; an extent's address is the offset in the file.

    The space reads with preadv, not through a mapping. The owner can truncate a file at any moment. An access
    to a mapping past the end then kills this process with SIGBUS, while preadv returns a short count. The
    cost is the same: the pixels are copied once in either case.

    Args:
        path: Path of the file; `/proc/PID/fd/N` for a memfd.

    Raises:
        NotFound: no such file.
        Refused: no permission.
    """

    events: Final = None
    frames: Final = None

    def __init__(self, path: str) -> None:
        self.name = path
        self.pid: int | None = None
        self.bytes_read: int = 0
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise NotFound("open", path, "no such file") from error
        except PermissionError as error:
            raise Refused("open", path, "permission denied", "needs read permission on the file") from error
        except OSError as error:
            raise error_for("open", path, error.errno or 0) from error

    @property
    def size_bytes(self) -> int:
        """Current length of the file, bytes."""
        return os.fstat(self._fd).st_size

    def read_runs(self, address: int, runs: PageRuns, into: NDArray[np.uint8], base_page: int) -> None:
        """Copy whole pages; see `AddressSpace.read_runs`. After the end of a partial last page come zeros."""
        view = memoryview(into.data)
        size = self.size_bytes
        for first, last in runs:
            at, want = address + first * PAGE_SIZE, (last - first) * PAGE_SIZE
            have = min(want, size - at)
            if have <= want - PAGE_SIZE:
                raise TargetGone("read", self.name, f"truncated to {size} bytes, {at + want} wanted")
            target = view[(first - base_page) * PAGE_SIZE :][:want]
            got = 0
            while got < have:
                step = self._read_once(target[got:have], at + got)
                if not step:
                    raise TargetGone("read", self.name, f"truncated to {at + got} bytes during the read")
                got += step
            into[(first - base_page) * PAGE_SIZE + have : (first - base_page) * PAGE_SIZE + want] = 0
            self.bytes_read += have

    def _read_once(self, into: memoryview, offset: int) -> int:
        try:
            return os.preadv(self._fd, [into], offset)
        except OSError as error:
            raise error_for("preadv", f"{self.name} at {offset}", error.errno or 0) from error

    def close(self) -> None:
        """Close the file; harmless twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
