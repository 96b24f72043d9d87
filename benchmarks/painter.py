"""A process that writes its own memory and times its stores (`painter.c`)."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Self

import numpy as np

from support.testbed.cache import compiled
from support.testbed.errors import TestbedError
from support.testbed.supervise import spawn, stop

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from numpy.typing import NDArray

    from vramtap.pages import PageRuns

_SOURCE: Final = Path(__file__).resolve().parent / "painter.c"
ROW_PIXELS: Final = 1024
"""Pixels of a row: 1024 pixels of 32 bits are a page, so any number of pages is a screen."""


class Filled(NamedTuple):
    """Times of one fill, by the writer's own clock.

    Args:
        began_s: When the fill began, on the monotonic clock.
        first_us: Duration of the first store, microseconds.
        all_us: Duration of all stores, microseconds.
    """

    began_s: float
    first_us: float
    all_us: float


class Painted(NamedTuple):
    """Result of painting at full speed.

    Args:
        frames: Number of frames painted.
        took_s: Elapsed time, seconds.
        cpu_s: The writer's CPU time, seconds.
    """

    frames: int
    took_s: float
    cpu_s: float

    @property
    def per_s(self) -> float:
        """Frames a second."""
        return self.frames / self.took_s

    @property
    def per_cpu_s(self) -> float:
        """Frames a second of the writer's CPU time."""
        return self.frames / self.cpu_s


class Painter:
    """The writer's process; it runs inside the `with` block.

    Args:
        pages: Number of pages of its memory.
        mode: Mode of the screen, `WIDTHxHEIGHT` at 32 bits a pixel; by default rows of a page each.
    """

    def __init__(self, pages: int, mode: str = "") -> None:
        self.pages = pages
        self._mode = mode or f"{ROW_PIXELS}x{pages}"
        self._process: subprocess.Popen[bytes]
        self.address = 0
        """Address of its memory."""

    @classmethod
    def of_screen(cls, width: int, height: int) -> Self:
        """Create a writer with the memory of a screen of 32 bits a pixel."""
        return cls(-(-width * height * 4 // 4096), f"{width}x{height}")

    @property
    def pid(self) -> int:
        """Process id of the writer."""
        return self._process.pid

    @property
    def url(self) -> str:
        """TARGET string of its memory."""
        width = int(self._mode.partition("x")[0])
        return f"pid:{self.pid}?address={self.address:#x}&mode={self._mode}&stride={width * 4}"

    def __enter__(self) -> Self:
        """Start the process.

        Raises:
            TestbedError: The process could not map the memory.
        """
        self._process = spawn(
            [compiled(_SOURCE), str(self.pages)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            self.address = int(self._answer("READY")[0], 16)
        except BaseException:
            stop(self._process)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill the process."""
        stop(self._process)

    def fill(self, first: int, last: int) -> Filled:
        """Write every byte of the pages `[first, last)` at once."""
        self._say(f"fill {first} {last}")
        began, stored, done = map(int, self._answer("FILLED"))
        return Filled(began / 1e9, stored / 1e3, done / 1e3)

    def video(self, duration_s: float, rounds: int) -> Painted:
        """Paint all pages again and again, as fast as the writer can.

        Args:
            duration_s: Duration, seconds; the writer finishes the frame it has begun.
            rounds: Rounds of arithmetic for every 8 bytes, which stand for a decoder.
        """
        self._say(f"video {round(duration_s * 1e9)} {rounds}")
        frames, took, cpu = map(int, self._answer("PAINTED"))
        return Painted(frames, took / 1e9, cpu / 1e9)

    def replay(self, frames: Sequence[PageRuns], hz: int) -> NDArray[np.int64]:
        """Write one word into each page of each frame, at `hz` frames a second.

        Returns:
            Shape `(frames, 3)`, int64, for each frame's stores: elapsed time and CPU time, nanoseconds, and 1
            if the writer slept meanwhile.
        """
        with tempfile.TemporaryDirectory(prefix="vramtap-painter-") as directory:
            into, out = Path(directory) / "frames", Path(directory) / "times"
            into.write_bytes(encoded(frames))
            self._say(f"replay {into} {hz} {out}")
            self._answer("REPLAYED")
            return np.fromfile(out, np.int64).reshape(-1, 3)

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def _answer(self, word: str) -> list[str]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode().split()
        if line[:1] != [word]:
            raise TestbedError(f"painter: {' '.join(line)!r} instead of {word}")
        return line[1:]


def encoded(frames: Sequence[PageRuns]) -> bytes:
    """Encode frames for `painter.c`: 32-bit words, each count before the items it counts."""
    words: list[NDArray[np.uint32]] = [np.array([len(frames)], np.uint32)]
    for runs in frames:
        words += [np.array([len(runs)], np.uint32), runs.array.astype(np.uint32).reshape(-1)]
    return np.concatenate(words).tobytes()
