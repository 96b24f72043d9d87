"""The program in dom0: `vramtap serve` as a process of its own, and viewers of what it serves."""

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
"""How long it may take to say where it listens: an emulated processor imports it for ten seconds and more."""
SHOW_S: Final = 60.0
"""How long a picture may take; a hang must still end."""
RAW, HEXTILE, ZRLE, DESKTOP_SIZE = 0, 5, 16, -223


class Served:
    """`vramtap serve`, running inside the `with` block.

    Args:
        url: Of the target.
        arguments: Further ones.
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
        """The next line that has this member."""
        while True:
            line = self._lines.get(timeout=START_S)
            assert line is not None, f"{self._command} ended: {self.errors}"
            said: dict[str, Any] = json.loads(line)
            self.said.append(said)
            if member in said:
                return said

    @property
    def errors(self) -> str:
        return "".join(self._errors)

    def interrupt(self) -> int:
        """Ctrl-C; returns the exit status."""
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
        with viewer_at(self.port) as viewer:
            yield viewer


class Viewer:
    """A VNC client that takes in whatever comes, in a thread, until it shows what is waited for."""

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
        """Wait until its picture is this one, exactly."""

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
                raise AssertionError(f"a picture of {seen.shape} and not {picture.shape}")
            rows, columns = np.nonzero(seen != picture)
            raise AssertionError(
                f"{len(rows)} pixels differ after {SHOW_S:g} s and {self.updates} updates, the first in row "
                f"{rows[0]} column {columns[0]}: {seen[rows[0], columns[0]]:#x}, not "
                f"{picture[rows[0], columns[0]]:#x}"
            )

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self.client.close()


@contextlib.contextmanager
def viewer_at(port: int, encodings: tuple[int, ...] = (RAW, DESKTOP_SIZE)) -> Iterator[Viewer]:
    """A viewer of any VNC server of this machine."""
    client = RfbClient.connect("127.0.0.1", port, encodings=encodings, pixel_format=NATIVE, timeout_s=SHOW_S)
    viewer = Viewer(client)
    try:
        yield viewer
    finally:
        viewer.close()


def picture_of(machine: BootSectorGuest) -> NDArray[np.uint32]:
    """What a machine shows in a mode of 32 bits a pixel, read through the tests' own mapping."""
    frame: NDArray[np.uint32] = np.ascontiguousarray(machine.frame()).view(np.uint32)
    return np.bitwise_and(frame, np.uint32(0xFFFFFF))
