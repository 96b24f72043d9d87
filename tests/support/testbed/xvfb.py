"""Xvfb, an X server without a screen: pixels in a file, SysV shared memory or anonymous memory."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import subprocess
import tempfile
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from support.testbed.errors import TestbedError
from support.testbed.supervise import spawn, stop

if TYPE_CHECKING:
    from types import TracebackType

_START_TIMEOUT_S: Final = 60
_SHMID: Final = re.compile(r"screen 0 shmid (\d+)")


class Framebuffer(Enum):
    """Memory of Xvfb's pixels."""

    FILE = "fbdir"
    """A mapped XWD file (`-fbdir`)."""
    SHMEM = "shmem"
    """A SysV shared memory segment with an XWD image (`-shmem`)."""
    PLAIN = "plain"
    """Anonymous memory. Xvfb does not announce its address."""


class Xvfb:
    """An X server that runs inside the `with` block.

    It draws no cursor: a software cursor would be in its memory, but not in the result of GetImage.

    Args:
        framebuffer: Memory of its pixels.
        width: Pixels.
        height: Pixels.
        depth: 8, 16 or 24.
        arguments: Further arguments of Xvfb.
    """

    def __init__(
        self,
        framebuffer: Framebuffer = Framebuffer.PLAIN,
        width: int = 1024,
        height: int = 768,
        depth: int = 24,
        arguments: tuple[str, ...] = (),
    ) -> None:
        self.framebuffer = framebuffer
        self.width = width
        self.height = height
        self.depth = depth
        self._arguments = arguments
        self._cleanup = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes]
        self._log: Path
        self.display: str
        """Value of DISPLAY for clients (`:3`)."""
        self.directory: Path
        """Directory of the server; with `FILE` it contains `Xvfb_screen0`."""

    @property
    def pid(self) -> int:
        """Process ID of the server."""
        return self._process.pid

    @property
    def url(self) -> str:
        """Target URL of this server."""
        return f"x11:{self.display}"

    @property
    def file(self) -> Path:
        """The XWD file; only with `FILE`."""
        return self.directory / "Xvfb_screen0"

    @property
    def shmid(self) -> int:
        """ID of the shared memory segment; only with `SHMEM`.

        Raises:
            TestbedError: The server announced no segment.
        """
        log = self._log.read_text(errors="replace")
        found = _SHMID.search(log)
        if not found:
            raise TestbedError(f"Xvfb announced no shared memory: {log}")
        return int(found[1])

    def __enter__(self) -> Self:
        """Start the server on a free display number. Return when it accepts clients.

        Raises:
            TestbedError: It does not start.
        """
        self.directory = Path(
            self._cleanup.enter_context(tempfile.TemporaryDirectory(prefix="vramtap-xvfb-"))
        )
        self._log = self.directory / "log"
        argv: list[str | Path] = ["Xvfb", "-screen", "0", f"{self.width}x{self.height}x{self.depth}"]
        argv += ["-nocursor", "-noreset", "-nolisten", "tcp", *self._arguments]
        if self.framebuffer is Framebuffer.FILE:
            argv += ["-fbdir", self.directory]
        elif self.framebuffer is Framebuffer.SHMEM:
            argv.append("-shmem")
        try:
            read_end, write_end = os.pipe()
            with os.fdopen(read_end, "rb", buffering=0) as announced, self._log.open("wb") as log:
                try:
                    argv += ["-displayfd", str(write_end)]
                    self._process = spawn(argv, stdout=log, stderr=log, pass_fds=(write_end,))
                finally:
                    os.close(write_end)
                self._cleanup.callback(self._end)
                self.display = f":{_read_line(announced.fileno())}"
        except BaseException as error:
            output = self._log.read_text(errors="replace").strip()
            self._cleanup.close()
            if isinstance(error, TestbedError):
                raise TestbedError(f"Xvfb did not start: {error}: {output}") from error
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the server."""
        self._cleanup.close()

    def kill(self) -> None:
        """Kill the server with SIGKILL."""
        stop(self._process)

    def _end(self) -> None:
        # The server does not remove its segment, even on a normal exit.
        shmid = _SHMID.search(self._log.read_text(errors="replace"))
        stop(self._process, gently_s=10)
        if shmid:
            subprocess.run(["ipcrm", "-m", shmid[1]], check=False, capture_output=True)


def _read_line(descriptor: int) -> str:
    line = b""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while not line.endswith(b"\n"):
            if not selector.select(_START_TIMEOUT_S):
                raise TestbedError(f"no display number after {_START_TIMEOUT_S} s")
            data = os.read(descriptor, 64)
            if not data:
                raise TestbedError("the server exited")
            line += data
    return line.decode().strip()
