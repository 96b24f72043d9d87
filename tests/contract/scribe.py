"""A child process with some memory, that writes, unmaps and remaps it on request.

Run as a program it is that child: it prints the memory's address, then obeys lines on standard input
and answers each with `done`.
"""

from __future__ import annotations

import ctypes
import mmap
import subprocess
import sys
from types import TracebackType
from typing import Final, Self

PAGE: Final = 4096
_MAP_FIXED: Final = 0x10
_MREMAP_MAYMOVE: Final = 1


class Scribe:
    """The child, alive inside the `with` block.

    Args:
        pages: Of its memory.
        path: A file or `/proc/PID/fd/N` it maps shared; anonymous memory without it.
        pass_fds: Descriptors it inherits.
    """

    def __init__(self, pages: int, path: str = "", pass_fds: tuple[int, ...] = ()) -> None:
        self.pages = pages
        self._path = path
        self._pass_fds = pass_fds

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(self.pages), self._path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=self._pass_fds,
        )
        self.pid = self._process.pid
        self.address = int(self._answer())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._process:
            self._process.kill()

    def write(self, offset_bytes: int, value: int) -> None:
        """Write one byte."""
        self._do(f"write {offset_bytes} {value}")

    def read_file_into(self, offset_bytes: int) -> None:
        """Let the kernel write: read(2) of a page of /dev/zero's ones into the memory."""
        self._do(f"kernel {offset_bytes}")

    def replace(self, first: int, last: int) -> None:
        """Map fresh anonymous pages over `[first, last)`."""
        self._do(f"replace {first} {last}")

    def unmap(self, first: int, last: int) -> None:
        """Unmap pages `[first, last)`."""
        self._do(f"unmap {first} {last}")

    def protect_forks(self) -> None:
        """Fork once, the child ends at once: the parent's pages are shared copy-on-write for a moment."""
        self._do("fork")

    def end(self) -> None:
        """Kill it and wait."""
        self._process.kill()
        self._process.wait()

    def _do(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        assert self._answer() == "done"

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line, "the scribe ended"
        return line


def _child(pages: int, path: str) -> None:
    import os

    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    size = pages * PAGE
    kinds = mmap.PROT_READ | mmap.PROT_WRITE
    if path:
        descriptor = os.open(path, os.O_RDWR)
        address = libc.mmap(None, ctypes.c_size_t(size), kinds, mmap.MAP_SHARED, descriptor, 0)
    else:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        address = libc.mmap(None, ctypes.c_size_t(size), kinds, flags, -1, 0)
    print(address, flush=True)
    for line in sys.stdin:
        verb, *words = line.split()
        numbers = [int(word) for word in words]
        if verb == "write":
            ctypes.c_ubyte.from_address(address + numbers[0]).value = numbers[1]
        elif verb == "kernel":
            reader, writer = os.pipe()
            os.write(writer, b"\xa5" * PAGE)
            target = (ctypes.c_char * PAGE).from_address(address + numbers[0])
            os.readv(reader, [target])
            os.close(reader)
            os.close(writer)
        elif verb == "replace":
            at, length = address + numbers[0] * PAGE, (numbers[1] - numbers[0]) * PAGE
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED
            libc.mmap(ctypes.c_void_p(at), ctypes.c_size_t(length), kinds, flags, -1, 0)
        elif verb == "unmap":
            at, length = address + numbers[0] * PAGE, (numbers[1] - numbers[0]) * PAGE
            libc.munmap(ctypes.c_void_p(at), ctypes.c_size_t(length))
        elif verb == "fork":
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)
        print("done", flush=True)


if __name__ == "__main__":
    _child(int(sys.argv[1]), sys.argv[2])
