"""Writers over the kinds of memory that a tracker supports, and a writer whose memory is a screen."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

import numpy as np

from support.testbed.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


WIDTH: Final = 640
HEIGHT: Final = 480
SIZE_BYTES: Final = WIDTH * HEIGHT * 4


def screen_writer() -> Writer:
    """Return a writer whose memory is a screen of `WIDTH` by `HEIGHT` pixels."""
    return Writer(SIZE_BYTES, writes=20_000, seed=5, pause_every=50)


def url_of(writer: Writer) -> str:
    """Return the target URL of the writer's memory."""
    return f"pid:{writer.pid}?address={writer.address:#x}&mode={WIDTH}x{HEIGHT}"


def picture_of(writer: Writer) -> NDArray[np.uint32]:
    """Return the picture in the writer's memory. Shape `(HEIGHT, WIDTH)`, `0x00RRGGBB`."""
    pixels = writer.memory()[:SIZE_BYTES].view(np.uint32) & np.uint32(0xFFFFFF)
    return pixels.reshape(HEIGHT, WIDTH)


@contextlib.contextmanager
def writer_of(
    memory: str,
    size_bytes: int,
    *,
    threads: int = 4,
    writes: int = 100_000,
    seed: int = 1,
    pause_every: int = 0,
    visit: int = 0,
    rest_us: int = 0,
) -> Iterator[Writer]:
    """Start a writer.

    Args:
        memory: `anonymous` or `memfd`.
        size_bytes: Size of the memory, bytes.
        threads: Number of threads that write.
        writes: Writes of a run.
        seed: Seed of the places and values.
        pause_every: Writes between two pauses of a thread. 0 means no pause.
        visit: Writes in one place before the next one. 0 means a new place for each write.
        rest_us: Longest rest between two places, us.
    """
    with contextlib.ExitStack() as cleanup:
        path: str | None = None
        pass_fds: tuple[int, ...] = ()
        if memory == "memfd":
            descriptor = os.memfd_create("writer")
            cleanup.callback(os.close, descriptor)
            path, pass_fds = f"/proc/self/fd/{descriptor}", (descriptor,)
        yield cleanup.enter_context(
            Writer(
                size_bytes,
                threads=threads,
                writes=writes,
                seed=seed,
                pause_every=pause_every,
                visit=visit,
                rest_us=rest_us,
                path=path,
                pass_fds=pass_fds,
            )
        )
