"""`vramtap serve` as a separate process in dom0, and viewers of VNC servers."""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import subprocess
import threading
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from support.rfb_client import RfbClient
from support.rfb_decoder import NATIVE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from numpy.typing import NDArray

    from xen.dom0.driver import BootSectorGuest

START_S: Final = 90.0
"""Time limit for starting vramtap, s. An emulated processor needs over ten seconds to import it."""
SHOW_S: Final = 60.0
"""Time limit for a picture to appear, s. It only has to end a hang."""
RAW, HEXTILE, ZRLE, DESKTOP_SIZE = 0, 5, 16, -223


class Served:
    """`vramtap serve`, running inside the `with` block.

    Args:
        url: The target.
        arguments: Further arguments of `serve`.

    Attributes:
        said: All JSON lines of standard output that `next` has read.
    """

    def __init__(self, url: str, *arguments: str) -> None:
        self._command = ["vramtap", "serve", url, "--vnc", "127.0.0.1:0", "--json", *arguments]
        self.said: list[dict[str, Any]] = []
        self._lines: queue.Queue[str | None] = queue.Queue()

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
        )
        self._errors: list[str] = []
        streams = (self.process.stdout, self._lines.put), (self.process.stderr, self._errors.append)
        self._readers = [threading.Thread(target=self._read, args=each, daemon=True) for each in streams]
        for reader in self._readers:
            reader.start()
        try:
            self.port = int(self.next("vnc")["vnc"][1])
        except BaseException:
            self._end()
            raise
        return self

    def _read(self, stream: Any, take: Callable[[Any], object]) -> None:  # noqa: ANN401 - a pipe
        for line in stream:
            take(line)
        if stream is self.process.stdout:
            self._lines.put(None)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def next(self, member: str) -> dict[str, Any]:
        """Return the next JSON line of standard output that has this member."""
        while True:
            line = self._lines.get(timeout=START_S)
            assert line is not None, f"{self._command} ended: {self.errors}"
            said: dict[str, Any] = json.loads(line)
            self.said.append(said)
            if member in said:
                return said

    @property
    def errors(self) -> str:
        """What vramtap has written to standard error so far."""
        return "".join(self._errors)

    def interrupt(self) -> int:
        """Send SIGINT and return the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(START_S)

    def _end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(START_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for reader in self._readers:
            reader.join()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()

    @contextlib.contextmanager
    def viewer(self) -> Iterator[Viewer]:
        """Connect a viewer to this server for the `with` block."""
        with viewer_at(self.port) as viewer:
            yield viewer


class Viewer:
    """A VNC client that receives updates in a thread, so that a test can wait for a picture."""

    def __init__(self, client: RfbClient) -> None:
        self.client = client
        self.updates = 0
        self._stop = threading.Event()
        self._news = threading.Condition()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.client.request(incremental=False)
            while not self._stop.is_set():
                try:
                    update = self.client.wait_update(0.5)
                except TimeoutError:
                    continue
                with self._news:
                    self.updates += 1
                    self._news.notify_all()
                self.client.request(incremental=not update.resized)
        except BaseException as error:
            with self._news:
                self._error = error
                self._news.notify_all()

    def shows(self, picture: NDArray[np.uint32]) -> None:
        """Wait until the viewer shows exactly this picture.

        Args:
            picture: 0x00RRGGBB, shape (height, width).

        Raises:
            AssertionError: The viewer failed, or shows another picture when the time is up.
        """

        def same() -> bool:
            seen = self.client.pixels
            return seen.shape == picture.shape and bool(np.array_equal(seen & 0xFFFFFF, picture))

        with self._news:
            found = self._news.wait_for(lambda: self._error is not None or same(), SHOW_S)
        if self._error is not None:
            raise AssertionError("the viewer failed") from self._error
        if not found:
            seen = self.client.pixels & 0xFFFFFF
            if seen.shape != picture.shape:
                raise AssertionError(f"the viewer has a picture of {seen.shape}, not {picture.shape}")
            rows, columns = np.nonzero(seen != picture)
            raise AssertionError(
                f"{len(rows)} pixels differ after {SHOW_S:g} s and {self.updates} updates, the first in row "
                f"{rows[0]} column {columns[0]}: {seen[rows[0], columns[0]]:#x}, not "
                f"{picture[rows[0], columns[0]]:#x}"
            )

    def close(self) -> None:
        """Stop the thread and disconnect."""
        self._stop.set()
        self._thread.join()
        self.client.close()


@contextlib.contextmanager
def viewer_at(port: int, encodings: tuple[int, ...] = (RAW, DESKTOP_SIZE)) -> Iterator[Viewer]:
    """Connect a viewer to a VNC server on this machine for the `with` block."""
    client = RfbClient.connect("127.0.0.1", port, encodings=encodings, pixel_format=NATIVE, timeout_s=SHOW_S)
    viewer = Viewer(client)
    try:
        yield viewer
    finally:
        viewer.close()


def picture_of(machine: BootSectorGuest) -> NDArray[np.uint32]:
    """Return what a guest shows in a mode of 32 bits per pixel, read through the tests' own mapping.

    Returns:
        0x00RRGGBB, shape (height, width).
    """
    frame: NDArray[np.uint32] = np.ascontiguousarray(machine.frame()).view(np.uint32)
    return np.bitwise_and(frame, np.uint32(0xFFFFFF))
