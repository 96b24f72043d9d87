"""Scribe: a child process that writes, unmaps, moves and replaces its memory on request.

Run as a program, this module is the child: it prints the address of its memory, then executes the commands on
standard input and answers each with `done`.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import select
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from types import TracebackType

PAGE: Final = 4096
KERNEL_BYTE: Final = 0xA5
"""Byte that `read_file_into` fills a page with."""
HELD_S: Final = 20.0
"""Timeout for an answer; only a write that stays suspended takes this long."""
_MAP_FIXED: Final = 0x10
_MREMAP_MAYMOVE: Final = 1
_MREMAP_FIXED: Final = 2


class Scribe:
    """The child process; it runs inside the `with` block.

    Args:
        pages: Size of the memory, pages.
        path: File or `/proc/PID/fd/N` to map shared; anonymous memory if empty.
        pass_fds: Descriptors that the child inherits.
        user: User and group that the child changes to before it maps memory; None for no change.
    """

    def __init__(
        self, pages: int, path: str = "", pass_fds: tuple[int, ...] = (), user: int | None = None
    ) -> None:
        self.pages = pages
        self._path = path
        self._pass_fds = pass_fds
        self._user = user

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [
                sys.executable,
                __file__,
                str(self.pages),
                self._path,
                "" if self._user is None else str(self._user),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            pass_fds=self._pass_fds,
        )
        self._received = b""
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
        self.begin_write(offset_bytes, value)
        self.finish()

    def begin_write(self, offset_bytes: int, value: int) -> None:
        """Start writing one byte; `finish` waits until the write is done."""
        self._send(f"write {offset_bytes} {value}")

    def begin_two_writes(self, offset_bytes: int, other_bytes: int, value: int) -> None:
        """Start writing one byte in each of two places from two threads at once; `finish` waits for both."""
        self._send(f"both {offset_bytes} {other_bytes} {value}")

    def answers(self) -> bool:
        """Return whether the child has sent an answer."""
        assert self._process.stdout is not None
        return bool(self._received or select.select([self._process.stdout], [], [], 0)[0])

    def finish(self) -> None:
        """Wait until the started command is done."""
        assert self._answer() == "done"

    def read_file_into(self, offset_bytes: int) -> None:
        """Let the kernel write: read(2) of a page full of `KERNEL_BYTE` into the memory."""
        self._do(f"kernel {offset_bytes}")

    def replace(self, first: int, last: int) -> None:
        """Map fresh anonymous pages over `[first, last)`."""
        self._do(f"replace {first} {last}")

    def replace_by_file(self, first: int, last: int, path: str) -> None:
        """Map the beginning of an ordinary file over `[first, last)`."""
        self._do(f"file {first} {last} {path}")

    def unmap(self, first: int, last: int) -> None:
        """Unmap pages `[first, last)`."""
        self._do(f"unmap {first} {last}")

    def give_back(self, first: int, last: int) -> None:
        """Discard pages `[first, last)` with MADV_DONTNEED; anonymous pages then read as zeros."""
        self._do(f"give {first} {last}")

    def move(self, first: int, last: int) -> int:
        """Move pages `[first, last)` elsewhere (mremap).

        Returns:
            Their new address.
        """
        self.begin_move(first, last)
        return self.finish_move()

    def begin_move(self, first: int, last: int) -> None:
        """Start moving pages `[first, last)` elsewhere; `finish_move` waits for it."""
        self._send(f"move {first} {last}")

    def finish_move(self) -> int:
        """Wait for the move; return the new address of the pages."""
        address = int(self._answer())
        self.finish()
        return address

    def write_elsewhere(self, offset_bytes: int, value: int) -> None:
        """Write one byte of the moved pages."""
        self._do(f"there {offset_bytes} {value}")

    def protect_forks(self) -> None:
        """Fork a child that exits at once: the pages are shared copy-on-write for a moment."""
        self._do("fork")

    def exec(self) -> None:
        """Replace the program (execv) under the same process ID; the child takes no further command."""
        self._do("exec")

    def end(self) -> None:
        """Kill the child and wait for its end."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Stop the child, and wait until it has stopped."""
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)

    def _do(self, line: str) -> None:
        self._send(line)
        self.finish()

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")

    def _answer(self) -> str:
        assert self._process.stdout is not None
        while b"\n" not in self._received:
            assert select.select([self._process.stdout], [], [], HELD_S)[0], "the scribe is suspended"
            more = self._process.stdout.read(PAGE)
            assert more, "the scribe ended"
            self._received += more
        line, _, self._received = self._received.partition(b"\n")
        return line.decode()


class _Child:
    """The program that the child runs."""

    def __init__(self, pages: int, path: str, user: str) -> None:
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.libc.mmap.restype = self.libc.mremap.restype = ctypes.c_void_p
        if user:
            os.setgroups([])
            os.setgid(int(user))
            os.setuid(int(user))
        descriptor = os.open(path, os.O_RDWR) if path else -1
        kind = mmap.MAP_SHARED if path else mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self.address = self._map(None, pages * PAGE, kind, descriptor)

    def _map(self, at: int | None, size: int, kind: int, descriptor: int = -1) -> int:
        kinds = mmap.PROT_READ | mmap.PROT_WRITE
        mapped: int = self.libc.mmap(ctypes.c_void_p(at), ctypes.c_size_t(size), kinds, kind, descriptor, 0)
        assert at in (None, mapped), ctypes.get_errno()
        return mapped

    def _span(self, first: str, last: str) -> tuple[ctypes.c_void_p, ctypes.c_size_t]:
        at, size = self.address + int(first) * PAGE, (int(last) - int(first)) * PAGE
        return ctypes.c_void_p(at), ctypes.c_size_t(size)

    def write(self, offset: str, value: str) -> None:
        ctypes.c_ubyte.from_address(self.address + int(offset)).value = int(value)

    def both(self, one: str, other: str, value: str) -> None:
        together = threading.Barrier(2)

        def store(offset: str) -> None:
            together.wait()
            # ctypes releases the interpreter's lock during the call, while the write may be suspended.
            self.libc.memset(ctypes.c_void_p(self.address + int(offset)), int(value), ctypes.c_size_t(1))

        threads = [threading.Thread(target=store, args=[offset]) for offset in (one, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def kernel(self, offset: str) -> None:
        reader, writer = os.pipe()
        os.write(writer, bytes([KERNEL_BYTE]) * PAGE)
        target = (ctypes.c_char * PAGE).from_address(self.address + int(offset))
        os.readv(reader, [target])
        os.close(reader)
        os.close(writer)

    def replace(self, first: str, last: str) -> None:
        at, size = self._span(first, last)
        self._map(at.value, size.value, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED)

    def file(self, first: str, last: str, path: str) -> None:
        at, size = self._span(first, last)
        descriptor = os.open(path, os.O_RDWR)
        self._map(at.value, size.value, mmap.MAP_SHARED | _MAP_FIXED, descriptor)
        os.close(descriptor)

    def unmap(self, first: str, last: str) -> None:
        assert self.libc.munmap(*self._span(first, last)) == 0

    def give(self, first: str, last: str) -> None:
        assert self.libc.madvise(*self._span(first, last), mmap.MADV_DONTNEED) == 0

    def move(self, first: str, last: str) -> None:
        at, size = self._span(first, last)
        place = self._map(None, size.value, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        moved = self.libc.mremap(at, size, size, _MREMAP_MAYMOVE | _MREMAP_FIXED, ctypes.c_void_p(place))
        assert moved == place, ctypes.get_errno()
        self.elsewhere = place
        print(moved, flush=True)

    def there(self, offset: str, value: str) -> None:
        ctypes.c_ubyte.from_address(self.elsewhere + int(offset)).value = int(value)

    def fork(self) -> None:
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)

    def exec(self) -> None:
        program = "print('done', flush=True); input()"
        os.execv(sys.executable, [sys.executable, "-c", program])

    def run(self) -> None:
        """Execute the commands on standard input."""
        print(self.address, flush=True)
        for line in sys.stdin:
            verb, *words = line.split()
            getattr(self, verb)(*words)
            print("done", flush=True)


if __name__ == "__main__":
    _Child(int(sys.argv[1]), sys.argv[2], sys.argv[3]).run()
