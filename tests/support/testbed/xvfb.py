"""Real X servers without a screen: Xvfb, its pixels in a file, in SysV shared memory or in its heap."""

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
    """Where Xvfb keeps its pixels."""

    FILE = "fbdir"
    """A mapped XWD file (`-fbdir`)."""
    SHMEM = "shmem"
    """A SysV shared memory segment holding an XWD image (`-shmem`)."""
    PLAIN = "plain"
    """Anonymous memory, announced nowhere."""


class Xvfb:
    """An X server that is running inside the `with` block.

    It draws no cursor: a software cursor would stand in its memory and not in what GetImage returns.

    Args:
        framebuffer: Where it keeps its pixels.
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
        """What DISPLAY is set to (`:3`)."""
        self.directory: Path
        """Of the server's own; holds `Xvfb_screen0` with `FILE`."""

    @property
    def pid(self) -> int:
        """The server's process."""
        return self._process.pid

    @property
    def url(self) -> str:
        """What the code under test is told to tap."""
        return f"x11:{self.display}"

    @property
    def file(self) -> Path:
        """The XWD file of `FILE`."""
        return self.directory / "Xvfb_screen0"

    @property
    def shmid(self) -> int:
        """The segment of `SHMEM`.

        Raises:
            TestbedError: the server announced none.
        """
        said = self._log.read_text(errors="replace")
        found = _SHMID.search(said)
        if not found:
            raise TestbedError(f"Xvfb announced no shared memory: {said}")
        return int(found[1])

    def __enter__(self) -> Self:
        """Start it on a display number that is free; return when it takes clients.

        Raises:
            TestbedError: it does not start.
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
            said = self._log.read_text(errors="replace").strip()
            self._cleanup.close()
            if isinstance(error, TestbedError):
                raise TestbedError(f"Xvfb did not start: {error}: {said}") from error
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self._cleanup.close()

    def kill(self) -> None:
        """End it as a crash would."""
        stop(self._process)

    def _end(self) -> None:
        # The server leaves its segment behind, even when it ends in good order.
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
                raise TestbedError(f"nothing after {_START_TIMEOUT_S} s")
            data = os.read(descriptor, 64)
            if not data:
                raise TestbedError("it ended")
            line += data
    return line.decode().strip()
