"""ArrayWrites: the writes to an array of this process, followed by its pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from vramtap.memory.own import extent_of
from vramtap.pages import PAGE_SIZE, PageRuns
from vramtap.trackers.base import AllDirty
from vramtap.trackers.choose import choose

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from numpy.typing import NDArray

    from vramtap.trackers.base import Tracker


class ArrayWrites:
    """The writes to an array of this process. A context manager; leaving it stops the tracker.

    Pages are those of the kernel, 4,096 bytes. Page 0 is the page in which the array begins; the array begins
    `byte_offset` bytes into it. A page is reported if any byte of it was written, also by a neighbour of the
    array in memory.

    Iterating gives the written parts of the array once, as half-open byte ranges:

    ```python
    with vramtap.track(array) as writes:
        for start, stop in writes:  # the first pass gives the whole array
            process(array.view("u1").ravel()[start:stop])
    ```

    Args:
        array: C-contiguous and writable, any dtype and shape. The tracker keeps it alive.
        tracker: `auto`, `log` or `compare`.

    Raises:
        ValueError: the array is empty, read-only or not contiguous.
        UsageError: no tracker has this name.
        VramtapError: the requested tracker does not work here.
    """

    def __init__(self, array: NDArray[Any], tracker: str = "auto") -> None:
        self.byte_offset: int
        extent, self.byte_offset = extent_of(array)
        self.nbytes: int = array.nbytes
        """Size of the array in bytes."""
        self.pages: int = extent.pages
        """Number of pages that the array lies in."""
        self.tracker: Tracker = choose(tracker, extent, wants_feedback=False).tracker
        """The tracker underneath, started."""

    def collect(self) -> PageRuns | AllDirty:
        """Return the pages written since the last call, and forget them.

        The log is cleared before this returns. Read the array after it: a write during the read is reported
        by the next call, so no write is missed.

        Returns:
            Page runs, empty if nothing was written; or `AllDirty(reason)` if the log is not complete and
            every page may have been written. The first call returns `AllDirty(Reason.FIRST)`: nothing was
            logged before the tracker was started.
        """
        return self.tracker.collect()

    def restore(self, runs: PageRuns) -> None:
        """Report these pages again in the next call, because the caller could not use them."""
        self.tracker.restore(runs)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield half-open byte ranges of the array that were written since the last call."""
        answer = self.collect()
        runs = PageRuns.full(self.pages) if isinstance(answer, AllDirty) else answer
        for first, last in runs:
            start = max(0, first * PAGE_SIZE - self.byte_offset)
            stop = min(self.nbytes, last * PAGE_SIZE - self.byte_offset)
            yield start, stop

    def stop(self) -> None:
        """Stop the tracker; the memory is left as it was found. Harmless when called twice."""
        self.tracker.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
