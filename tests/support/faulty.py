"""A target and a tracker in plain Python that fail when a test injects a fault.

They keep the contracts exactly, and assert that the tap does too.
"""

from __future__ import annotations

import asyncio
import enum
import os
from collections import Counter
from typing import TYPE_CHECKING, Final, Self

import numpy as np
from numpy.typing import NDArray

from vramtap.concurrency import Observers
from vramtap.display.mode import Mode, PixelFormat
from vramtap.errors import KernelError, NotTappable, TargetGone, TimedOut, VramtapError
from vramtap.memory.extent import Extent
from vramtap.pages import NO_PAGES, PAGE_SIZE, PageRuns
from vramtap.trackers.base import AllDirty, Reason, Waker

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from vramtap.keyboard.events import Input

Pixels = NDArray[np.uint32]

PAGES: Final = 64
XR24: Final = Mode(100, 60, 400)
"""6 pages."""


class Fault(enum.Enum):
    """Faults that a test can inject."""

    READ = enum.auto()
    """The memory cannot be read."""
    READ_GONE = enum.auto()
    """The memory cannot be read, because the target has ended."""
    COLLECT = enum.auto()
    """Collecting fails."""
    COLLECT_DEFECT = enum.auto()
    """The tracker has a bug."""
    MODE = enum.auto()
    """The mode cannot be read."""
    MODE_LATE = enum.auto()
    """The target does not answer in time."""
    MODE_DEFECT = enum.auto()
    """The target has a bug."""
    SNAPSHOT = enum.auto()
    """The snapshot fails."""


class Faults:
    """Number of times that each fault is still to happen."""

    def __init__(self) -> None:
        self._left: Counter[Fault] = Counter()
        self.over = asyncio.Event()
        """Set when all injected faults have happened."""

    def inject(self, fault: Fault, times: int = 1) -> None:
        """Let the fault happen the next `times` times."""
        self._left[fault] += times
        self.over.clear()

    def repair(self) -> None:
        """Drop all injected faults."""
        self._left.clear()
        self.over.set()

    def happens(self, fault: Fault) -> bool:
        """Return whether the fault happens now, and count it."""
        if self._left[fault] <= 0:
            return False
        self._left[fault] -= 1
        if not self._left.total():
            self.over.set()
        return True


class FaultySpace:
    """Memory of this process whose reads can fail."""

    events = None
    frames = None

    def __init__(self, faults: Faults, memory: NDArray[np.uint8]) -> None:
        self.name = "faulty"
        self.pid: int | None = None
        self.bytes_read = 0
        self._faults = faults
        self._memory = memory

    def read_runs(self, address: int, runs: PageRuns, into: NDArray[np.uint8], base_page: int) -> None:
        """See `AddressSpace.read_runs`. A read that fails has copied half, as a system call does."""
        for number, (first, last) in enumerate(runs):
            if number or len(runs) == 1:
                self._fail()
            into[(first - base_page) * PAGE_SIZE : (last - base_page) * PAGE_SIZE] = self._memory[
                first * PAGE_SIZE : last * PAGE_SIZE
            ]
            self.bytes_read += (last - first) * PAGE_SIZE

    def _fail(self) -> None:
        if self._faults.happens(Fault.READ):
            raise KernelError("read", self.name, 14)
        if self._faults.happens(Fault.READ_GONE):
            raise TargetGone("read", self.name, "no such process")


class FaultyTarget:
    """A screen in this process's memory, written by `write` only."""

    def __init__(self, mode: Mode | None = XR24) -> None:
        self.faults = Faults()
        self.url = "faulty:"
        self.memory = np.zeros(PAGES * PAGE_SIZE, np.uint8)
        self.extent = Extent(FaultySpace(self.faults, self.memory), 0, PAGES)
        self.input: Input | None = None
        self.tolerates_injection = False
        self.announces_mode = False
        self.activity: Observers[Callable[[], None]] = Observers()
        self.on_write: Callable[[int, int], None] = lambda first, last: None
        """Called with the written page range, after the write."""
        self.shown = mode
        self.picture: Pixels = np.zeros((4, 6), np.uint32)
        """Picture shown while `shown` is None."""
        self.modes_read = 0
        self.attached = 0
        self.released = 0
        self.mode_requested = asyncio.Event()
        """Set when the mode is requested."""
        self.answering = asyncio.Event()
        """While clear, requests for the mode wait."""
        self.answering.set()
        self._requests = 0
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def write(self, at: int, data: bytes) -> None:
        """Write to the memory, as a guest does."""
        self.memory[at : at + len(data)] = np.frombuffer(data, np.uint8)
        self.on_write(at // PAGE_SIZE, -(-(at + len(data)) // PAGE_SIZE))

    def put(self, x: int, y: int, color: int) -> None:
        """Write one pixel of the screen."""
        mode = self.shown
        assert mode is not None
        size = mode.format.bytes_per_pixel
        self.write(mode.offset_bytes + y * mode.stride_bytes + x * size, color.to_bytes(size, "little"))

    @property
    def truth(self) -> Pixels:
        """Pixels that the target shows."""
        mode = self.shown
        if mode is None:
            return self.picture
        rows = np.arange(mode.height)[:, None] * mode.stride_bytes + mode.offset_bytes
        if mode.format is PixelFormat.C8:
            assert mode.palette is not None
            colors: Pixels = np.array(mode.palette, np.uint32)[self.memory[rows + np.arange(mode.width)]]
            return colors
        assert mode.format is PixelFormat.XR24
        pixels: Pixels = self.memory[rows + np.arange(mode.width * 4)].view("<u4") & np.uint32(0xFFFFFF)
        return pixels

    def end(self, reason: str) -> None:
        """End the target."""
        self._ended.set_result(reason)

    async def __aenter__(self) -> Self:
        self.attached += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.released += 1

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        return self.activity.add(callback)

    async def mode(self) -> Mode | None:
        self._requests += 1
        assert self._requests == 1, "two requests for the mode at once"
        try:
            shown = self.shown
            self.mode_requested.set()
            await asyncio.sleep(0.001)
            await self.answering.wait()
        finally:
            self._requests -= 1
        self.modes_read += 1
        if self.faults.happens(Fault.MODE):
            raise VramtapError("mode", self.url, "invalid answer")
        if self.faults.happens(Fault.MODE_LATE):
            raise TimedOut("mode", self.url, "no answer in time")
        if self.faults.happens(Fault.MODE_DEFECT):
            raise ZeroDivisionError
        return shown

    async def snapshot(self) -> Pixels:
        await asyncio.sleep(0.01)
        if self.faults.happens(Fault.SNAPSHOT):
            raise VramtapError("screendump", self.url, "cut short")
        if self.shown is not None:
            raise NotTappable("screendump", self.url, "it is a framebuffer")
        return self.picture.copy()

    async def gone(self) -> str:
        return await asyncio.shield(self._ended)


class SoftLog:
    """Tracker that the target notifies of each write: exact, reads nothing, can wake.

    Args:
        target: The target.
        on_collect: Called by each collect.
    """

    name = "softlog"
    prefers_window = False

    def __init__(self, target: FaultyTarget, on_collect: Callable[[], None] = lambda: None) -> None:
        self._faults = target.faults
        self._on_collect = on_collect
        self._written = PageRuns.full(PAGES)
        self._first = True
        self._extent: Extent | None = None
        self._waker: _SoftWaker | None = None
        self.collects = 0
        self.stops = 0
        self.feedbacks: list[PageRuns] = []
        target.on_write = self._mark

    def _mark(self, first: int, last: int) -> None:
        self._written = self._written.union(PageRuns([(first, last)]))
        if self._waker is not None:
            self._waker.fire()

    @property
    def watching(self) -> bool:
        """Whether a wait is under way."""
        return self._waker is not None

    @property
    def read_from(self) -> Extent:
        assert self._extent is not None
        return self._extent

    def start(self, extent: Extent) -> None:
        self._extent = extent

    def collect(self, window: tuple[int, int] | None = None) -> PageRuns | AllDirty:
        assert self._extent is not None, "collect after stop"
        assert self._waker is None, "collect before the waker was cancelled"
        self.collects += 1
        self._on_collect()
        if self._faults.happens(Fault.COLLECT):
            raise KernelError("collect", "softlog", 12)
        if self._faults.happens(Fault.COLLECT_DEFECT):
            raise ZeroDivisionError
        written, self._written = self._written, NO_PAGES
        if self._first:
            self._first = False
            return AllDirty(Reason.FIRST)
        return written

    def restore(self, runs: PageRuns) -> None:
        assert self._waker is None, "restore before the waker was cancelled"
        self._written = self._written.union(runs)

    @property
    def has_more(self) -> bool:
        return False

    @property
    def wants_feedback(self) -> bool:
        return True

    def feedback(self, changed: PageRuns) -> None:
        self.feedbacks.append(changed)

    @property
    def idle_after_s(self) -> float:
        return float("inf")

    def wake(self, callback: Callable[[], None]) -> Waker | None:
        assert self._waker is None, "woken twice"
        self._waker = _SoftWaker(callback, self._forget_waker)
        if self._written:
            self._waker.fire()
        return self._waker

    def _forget_waker(self) -> None:
        self._waker = None

    def stop(self) -> None:
        assert self._waker is None, "stop before the waker was cancelled"
        self._extent = None
        self.stops += 1


class _SoftWaker:
    fd: int | None = None

    def __init__(self, callback: Callable[[], None], on_cancel: Callable[[], None]) -> None:
        self._callback = callback
        self._on_cancel = on_cancel
        self._fired = False
        self._cancelled = False

    def fire(self) -> None:
        if not self._fired:
            self._fired = True
            self._callback()

    def cancel(self) -> None:
        assert not self._cancelled, "cancelled twice"
        self._cancelled = True
        self._on_cancel()


class ArmedLog(SoftLog):
    """`SoftLog` whose first write makes a descriptor readable instead of calling back."""

    name = "armed"

    def wake(self, callback: Callable[[], None]) -> Waker | None:
        assert self._waker is None, "woken twice"
        waker = _DescriptorWaker(self._forget_waker)
        self._waker = waker
        if self._written:
            waker.fire()
        return waker


class _DescriptorWaker(_SoftWaker):
    def __init__(self, on_cancel: Callable[[], None]) -> None:
        super().__init__(lambda: None, on_cancel)
        self._event = os.eventfd(0, os.EFD_CLOEXEC)
        self.fd = self._event

    def fire(self) -> None:
        os.eventfd_write(self._event, 1)

    def cancel(self) -> None:
        # A loop that still watches the descriptor would watch the next file with this number.
        assert not asyncio.get_running_loop().remove_reader(self._event), "cancelled while it is watched"
        super().cancel()
        os.close(self._event)
