"""Calibration: it measures every cost, leaves nothing behind in the target, and raises on refusals."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pytest

from support.scribe import PAGE, Scribe
from vramtap.errors import KernelError, VramtapError
from vramtap.linux.inject import Fetched, fetch_guarded
from vramtap.memory.extent import Extent
from vramtap.memory.own import extent_of
from vramtap.memory.process import ProcessSpace
from vramtap.pages import PageRuns
from vramtap.trackers.base import AllDirty, Reason
from vramtap.trackers.userfault import calibrate
from vramtap.trackers.userfault.calibrate import fault_us, measure_costs, wake_up_us
from vramtap.trackers.userfault.log import LogTracker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vramtap.linux.watchdog import Watchdog

PAGES = 64


@contextmanager
def logged(path: str = "") -> Iterator[tuple[Scribe, Extent, LogTracker, Watchdog]]:
    with Scribe(PAGES, path) as scribe:
        space = ProcessSpace(scribe.pid)
        extent = Extent(space, scribe.address, PAGES)
        log = LogTracker()

        def fetch(pid: int, *, allow_filtered: bool) -> Fetched:
            return fetch_guarded(pid, extent.address, extent.end, allow_filtered=allow_filtered)

        fetched = log.start_fetched(extent, fetch)
        assert fetched is not None
        assert fetched.watchdog is not None
        yield scribe, extent, log, fetched.watchdog
        fetched.watchdog.close()
        log.stop()
        space.close()


def test_all_costs_are_measured_and_the_log_still_works() -> None:
    with logged() as (scribe, extent, log, watchdog):
        before = extent.space.bytes_read
        costs = measure_costs(extent, log, watchdog, 2.0)
        assert costs.guest_cost_factor == 2.0
        assert costs.fault_us >= 0
        assert min(costs.page_us, costs.protect_us, costs.scan_us) > 0
        assert min(costs.arm_us, costs.hand_over_us, costs.held_us) > 0
        assert extent.space.bytes_read == before, "the counter is for tracking only"
        assert log.collect() == AllDirty(Reason.FIRST)
        assert log.collect() == PageRuns()
        scribe.write(3 * PAGE, 1)
        assert log.collect() == PageRuns([(3, 4)])


def test_writes_during_calibration_are_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    with logged() as (scribe, extent, log, watchdog):
        rehearse, scan = watchdog.rehearse, log.rehearse_scan
        held = []

        def writing_rehearsal(timeout_s: float) -> float | None:
            scribe.write(5 * PAGE, 1)
            held.append(1)
            return rehearse(timeout_s)

        def writing_scan() -> None:
            scribe.write(0, 2)
            scan()

        monkeypatch.setattr(watchdog, "rehearse", writing_rehearsal)
        monkeypatch.setattr(log, "rehearse_scan", writing_scan)
        measure_costs(extent, log, watchdog)
        assert held
        assert isinstance(log.collect(), AllDirty)
        mine = np.zeros(PAGES * PAGE, np.uint8)
        extent.read(PageRuns.full(PAGES), mine)
        assert mine[5 * PAGE] == 1
        assert mine[0] == 2
        assert log.collect() == PageRuns()


def test_costs_of_arming_are_0_without_a_watchdog() -> None:
    pages = np.zeros((PAGES + 1) * PAGE, np.uint8)
    extent = extent_of(pages[-pages.ctypes.data % PAGE :][: PAGES * PAGE])[0]
    log = LogTracker()
    log.start(extent)
    costs = measure_costs(extent, log, None)
    assert (costs.arm_us, costs.hand_over_us, costs.held_us) == (0, 0, 0)
    assert costs.page_us > 0
    assert costs.scan_us > 0
    log.stop()


def test_memory_without_synchronous_protection_raises_and_stays_logged(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    path.write_bytes(bytes(PAGES * PAGE))
    with logged(str(path)) as (scribe, extent, log, watchdog):
        with pytest.raises(KernelError, match="UFFDIO_REGISTER"):
            measure_costs(extent, log, watchdog)
        log.collect()
        scribe.write(3 * PAGE, 1)
        assert log.collect() == PageRuns([(3, 4)])


def test_silent_watchdog_raises_and_the_log_still_works(monkeypatch: pytest.MonkeyPatch) -> None:
    with logged() as (scribe, extent, log, watchdog):
        monkeypatch.setattr(watchdog, "rehearse", lambda timeout_s: None)
        with pytest.raises(VramtapError, match="watchdog did not answer"):
            measure_costs(extent, log, watchdog)
        log.collect()
        scribe.write(3 * PAGE, 1)
        assert log.collect() == PageRuns([(3, 4)])


@pytest.mark.parametrize("anonymous", [True, False])
def test_fault_is_measured_once_and_leaves_no_descriptor(anonymous: bool) -> None:
    fault_us.cache_clear()
    before = set(os.listdir("/proc/self/fd"))
    first = fault_us(anonymous=anonymous)
    assert first >= 0
    assert fault_us(anonymous=anonymous) == first
    assert set(os.listdir("/proc/self/fd")) == before


def test_wake_up_is_measured_once() -> None:
    wake_up_us.cache_clear()
    first = wake_up_us()
    assert first > 0
    assert wake_up_us() == first


def test_anonymous_memory_is_told_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    path.write_bytes(bytes(PAGES * PAGE))
    for name, anonymous in (("", True), (str(path), False)):
        with Scribe(PAGES, name) as scribe:
            space = ProcessSpace(scribe.pid)
            assert calibrate._is_anonymous(Extent(space, scribe.address, PAGES)) is anonymous
            space.close()
