"""Calibration: what following writes costs on one target, found by doing it there once."""

from __future__ import annotations

import contextlib
import mmap
import os
import statistics
import time
from functools import cache
from typing import TYPE_CHECKING, Final

import numpy as np

from vramtap.errors import KernelError, VramtapError
from vramtap.linux.procfs import read_maps
from vramtap.memory.own import extent_of
from vramtap.pages import PAGE_SIZE, PageRuns
from vramtap.policy.costs import Costs
from vramtap.trackers.base import AllDirty, Reason
from vramtap.trackers.userfault.log import LogTracker

if TYPE_CHECKING:
    from collections.abc import Callable

    from vramtap.linux.watchdog import Watchdog
    from vramtap.memory.extent import Extent

_PAGES: Final = 256
"""Written or read at a time: 1 MiB, long enough for the clock, short enough for an attach."""
_TIMES: Final = 5
"""Of each measurement; the median of five does not mind one that was interrupted."""
_WAKINGS: Final = 10
_WAKING_S: Final = 0.002
_REHEARSAL_S: Final = 0.1
"""For the watchdog to answer; it takes less than a millisecond."""
_LEAST_US: Final = 0.01
"""What a clock of nanoseconds makes of nothing, ten times over."""


def measure_costs(
    extent: Extent, log: LogTracker, watchdog: Watchdog | None, guest_cost_factor: float = 1.0
) -> Costs:
    """Measure on a target whose log is armed; it is armed again, and everything unknown, afterwards.

    What the writer pays for a fault cannot be measured in the target without writing there: it is measured on
    memory of our own of the same kind, under the same kernel.

    Cost: 25-50 ms; the extent is protected synchronously for 2-5 ms of it.

    Args:
        extent: What is tracked.
        log: Armed on it.
        watchdog: Of the descriptor for synchronous protection; None without.
        guest_cost_factor: See `Costs`.

    Raises:
        VramtapError: the memory is of a kind that cannot be protected synchronously, or something failed that
            tracking needs as well.
    """
    arm_us = hand_over_us = held_us = 0.0
    if watchdog is not None:
        rounds = [_transitions(extent, log, watchdog) for _ in range(_TIMES)]
        arm_us, hand_over_us, held_us = (statistics.median(of) for of in zip(*rounds, strict=True))
    return Costs(
        fault_us=fault_us(_anonymous(extent)),
        page_us=max(_LEAST_US, _page_us(extent)),
        protect_us=_median_us(lambda: log.rehearse(0)),
        look_us=waking_us() + max(_LEAST_US, _median_us(log.scan)),
        arm_us=arm_us,
        hand_over_us=hand_over_us,
        held_us=held_us,
        guest_cost_factor=guest_cost_factor,
    )


def _transitions(extent: Extent, log: LogTracker, watchdog: Watchdog) -> tuple[float, float, float]:
    """Arm and hand over once: what each takes, and what the watchdog's answer does, in microseconds."""
    began_ns = time.perf_counter_ns()
    log.suspend(AllDirty(Reason.FIRST))
    try:
        watchdog.guard.register(extent.address, extent.end)
        watchdog.guard.protect(extent.address, extent.end)
        armed_ns = time.perf_counter_ns()
        held_us = watchdog.rehearse(_REHEARSAL_S)
        if held_us is None:
            raise VramtapError("calibrate", str(extent), "the watchdog does not answer")
        answered_ns = time.perf_counter_ns()
    finally:
        # Refused where it never was registered.
        with contextlib.suppress(KernelError):
            watchdog.guard.unregister(extent.address, extent.end)
        log.resume(AllDirty(Reason.FIRST))
    ended_ns = time.perf_counter_ns()
    return (armed_ns - began_ns) / 1000, (ended_ns - answered_ns) / 1000, held_us


def _page_us(extent: Extent) -> float:
    """Reading a page of the target and comparing it with what was read before."""
    pages = min(_PAGES, extent.pages)
    fresh, known = (np.zeros(pages * PAGE_SIZE, np.uint8) for _ in range(2))
    runs = PageRuns.full(pages)
    before = extent.space.bytes_read
    extent.read(runs, known)

    def read() -> None:
        extent.read(runs, fresh)
        np.array_equal(fresh.view(np.uint64), known.view(np.uint64))

    us = _median_us(read) / pages
    extent.space.bytes_read = before  # what is counted there is what tracking reads
    return us


@cache
def waking_us() -> float:
    """What it costs this process to wait and to be woken: CPU time before and after a line of ours runs."""
    began_ns = time.thread_time_ns()
    for _ in range(_WAKINGS):
        time.sleep(_WAKING_S)  # what is measured is the waiting itself
    return (time.thread_time_ns() - began_ns) / 1000 / _WAKINGS


@cache
def fault_us(anonymous: bool) -> float:
    """A first write to a page of our own that is protected, less what it takes when it is not.

    Args:
        anonymous: Memory of no file; otherwise of a file in memory.
    """
    if anonymous:
        room = mmap.mmap(-1, _PAGES * PAGE_SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    else:
        descriptor = os.memfd_create("vramtap-calibrate", os.MFD_CLOEXEC)
        try:
            os.truncate(descriptor, _PAGES * PAGE_SIZE)
            room = mmap.mmap(descriptor, _PAGES * PAGE_SIZE)
        finally:
            os.close(descriptor)
    pages = np.frombuffer(room, np.uint8)
    firsts = pages[::PAGE_SIZE]
    firsts[:] = 1
    free_us = _median_us(lambda: firsts.fill(2))
    log = LogTracker()
    log.start(extent_of(pages)[0])
    try:
        took_us = []
        for _ in range(_TIMES):
            log.collect()
            took_us.append(_once_us(lambda: firsts.fill(3)))
    finally:
        log.stop()
    return max(0.0, statistics.median(took_us) - free_us) / _PAGES


def _anonymous(extent: Extent) -> bool:
    pid = extent.space.pid
    if pid is None:
        return True
    return any(m.start <= extent.address < m.end and m.anonymous for m in read_maps(pid))


def _median_us(action: Callable[[], object]) -> float:
    return statistics.median(_once_us(action) for _ in range(_TIMES))


def _once_us(action: Callable[[], object]) -> float:
    began_ns = time.perf_counter_ns()
    action()
    return (time.perf_counter_ns() - began_ns) / 1000
