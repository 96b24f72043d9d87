"""Calibration: measures what following writes costs on one target."""

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
"""Pages written or read in one measurement: 1 MiB, long enough for the clock, short enough for an attach."""
_TIMES: Final = 5
"""Repetitions of each measurement; the median of five is not affected by one interruption."""
_WAKE_UPS: Final = 10
_SLEEP_S: Final = 0.002
_REHEARSAL_S: Final = 0.1
"""Timeout for the watchdog's answer, which takes less than a millisecond."""
_LEAST_US: Final = 0.01
"""Lowest cost that is reported: ten times the resolution of the clock."""


def measure_costs(
    extent: Extent, log: LogTracker, watchdog: Watchdog | None, guest_cost_factor: float = 1.0
) -> Costs:
    """Measure the costs on a target whose log is started.

    Afterwards the extent is protected again, and the next answer for every page is AllDirty.

    The writer's cost of a fault cannot be measured in the target without writing there. So it is measured on
    memory of this process, of the same kind and under the same kernel.

    Cost: 25-50 ms; the extent is protected synchronously for 2-5 ms of it.

    Args:
        extent: The tracked extent.
        log: Tracker of the extent.
        watchdog: Watchdog for synchronous protection; None if there is none.
        guest_cost_factor: See `Costs`.

    Raises:
        VramtapError: memory of this kind cannot be protected synchronously, or a step failed that tracking
            needs as well.
    """
    arm_us = hand_over_us = held_us = 0.0
    if watchdog is not None:
        rounds = [_transitions(extent, log, watchdog) for _ in range(_TIMES)]
        arm_us, hand_over_us, held_us = (statistics.median(of) for of in zip(*rounds, strict=True))
    return Costs(
        fault_us=fault_us(anonymous=_is_anonymous(extent)),
        page_us=max(_LEAST_US, _page_us(extent)),
        protect_us=_median_us(lambda: log.rehearse_protect(0)),
        scan_us=wake_up_us() + max(_LEAST_US, _median_us(log.rehearse_scan)),
        arm_us=arm_us,
        hand_over_us=hand_over_us,
        held_us=held_us,
        guest_cost_factor=guest_cost_factor,
    )


def _transitions(extent: Extent, log: LogTracker, watchdog: Watchdog) -> tuple[float, float, float]:
    """Arm and disarm once; return the time of each, and of the watchdog's answer, microseconds."""
    began_ns = time.perf_counter_ns()
    log.suspend(AllDirty(Reason.FIRST))
    try:
        watchdog.guard.register(extent.address, extent.end)
        watchdog.guard.protect(extent.address, extent.end)
        armed_ns = time.perf_counter_ns()
        held_us = watchdog.rehearse(_REHEARSAL_S)
        if held_us is None:
            raise VramtapError(
                "calibrate", str(extent), f"the watchdog did not answer within {_REHEARSAL_S * 1000:g} ms"
            )
        answered_ns = time.perf_counter_ns()
    finally:
        # The kernel refuses this if `register` failed.
        with contextlib.suppress(KernelError):
            watchdog.guard.unregister(extent.address, extent.end)
        log.resume(AllDirty(Reason.FIRST))
    ended_ns = time.perf_counter_ns()
    return (armed_ns - began_ns) / 1000, (ended_ns - answered_ns) / 1000, held_us


def _page_us(extent: Extent) -> float:
    """Return the time to read one page of the target and compare it with a copy, microseconds."""
    pages = min(_PAGES, extent.pages)
    fresh, known = (np.zeros(pages * PAGE_SIZE, np.uint8) for _ in range(2))
    runs = PageRuns.full(pages)
    before = extent.space.bytes_read
    extent.read(runs, known)

    def read() -> None:
        extent.read(runs, fresh)
        np.array_equal(fresh.view(np.uint64), known.view(np.uint64))

    us = _median_us(read) / pages
    extent.space.bytes_read = before  # this counter is for tracking only
    return us


@cache
def wake_up_us() -> float:
    """Return the CPU time that one sleep and wake-up of this process costs, microseconds."""
    began_ns = time.thread_time_ns()
    for _ in range(_WAKE_UPS):
        time.sleep(_SLEEP_S)  # the wait itself is measured
    return (time.thread_time_ns() - began_ns) / 1000 / _WAKE_UPS


@cache
def fault_us(*, anonymous: bool) -> float:
    """Return how much longer the first write to a page takes if the page is protected, microseconds.

    Args:
        anonymous: Measure with anonymous memory; otherwise with a file in memory.
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


def _is_anonymous(extent: Extent) -> bool:
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
