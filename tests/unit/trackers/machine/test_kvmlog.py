"""Tracker `kvmlog`: behaviour beyond the contract, which tests/contract checks."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pytest

from support.kvm_guest import FIRST_PAGE, FORMS, STORE_AS_TOLD, SilentPorts, TinyMachine
from vramtap.errors import KernelError, Refused, TargetGone, VramtapError
from vramtap.machine.layout import VRAM_BYTES
from vramtap.machine.memory import GuestMemory
from vramtap.machine.space import GuestSpace
from vramtap.machine.unicorn_cpu import UnicornCpu
from vramtap.memory.extent import Extent
from vramtap.memory.own import extent_of
from vramtap.pages import PAGE_SIZE, PageRuns
from vramtap.trackers.base import AllDirty, Reason
from vramtap.trackers.machine.kvmlog import KvmLogTracker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vramtap.machine.cpu import Cpu

PAGES = 64
BASE = FIRST_PAGE * PAGE_SIZE


class CountedMachine(TinyMachine):
    """Counts how often it is paused, and can pretend to have ended."""

    pauses = 0
    ended = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        if self.ended:
            raise TargetGone("machine", "guest", "it ended")
        self.pauses += 1
        yield


@pytest.fixture(params=FORMS)
def armed(request: pytest.FixtureRequest) -> Iterator[tuple[KvmLogTracker, CountedMachine]]:
    with CountedMachine(STORE_AS_TOLD, request.param) as machine:
        machine.until_halt()
        tracker = KvmLogTracker()
        tracker.start(machine.extent(PAGES))
        tracker.collect()
        yield tracker, machine
        tracker.stop()


Armed = tuple[KvmLogTracker, CountedMachine]


def test_other_memory_is_refused() -> None:
    with pytest.raises(VramtapError, match="not memory of the built-in VM"):
        KvmLogTracker().start(extent_of(np.zeros(PAGE_SIZE, dtype=np.uint8))[0])


def test_other_cpu_is_refused_with_a_remedy() -> None:
    class Emulated(TinyMachine):
        @property
        def cpu(self) -> Cpu:
            return emulated

    with Emulated(b"\xf4") as machine:
        emulated: Cpu = UnicornCpu(GuestMemory(), SilentPorts())
        with pytest.raises(VramtapError, match=r"CPU is unicorn.*\(use \?cpu=kvm\)"):
            KvmLogTracker().start(machine.extent(PAGES))


def test_extent_past_the_video_ram_is_refused() -> None:
    with TinyMachine(b"\xf4") as machine:
        with pytest.raises(VramtapError, match="past the end"):
            KvmLogTracker().start(machine.extent(2, VRAM_BYTES // PAGE_SIZE - 1))
        machine.kvm.vram_log.start()


def test_only_pages_of_the_extent_are_reported(armed: Armed) -> None:
    tracker, machine = armed
    machine.store(BASE - 1, 1)
    machine.store(BASE, 1)
    machine.store(BASE + PAGES * PAGE_SIZE - 1, 1)
    machine.store(BASE + PAGES * PAGE_SIZE, 1)
    assert tracker.collect() == PageRuns([(0, 1), (PAGES - 1, PAGES)])
    assert tracker.collect() == PageRuns()


def test_device_writes_are_reported(armed: Armed) -> None:
    tracker, machine = armed
    machine.memory.vram[BASE + 3 * PAGE_SIZE] = 1
    machine.memory.wrote(BASE + 3 * PAGE_SIZE, 1)
    machine.memory.wrote(0, BASE)
    machine.store(BASE + 7 * PAGE_SIZE, 1)
    assert tracker.collect((0, 5)) == PageRuns([(3, 4)])
    assert tracker.collect() == PageRuns([(7, 8)])


def test_only_the_ring_stops_the_guest(armed: Armed) -> None:
    tracker, machine = armed
    before = machine.pauses
    tracker.collect()
    assert machine.pauses - before == (1 if machine.kvm.vram_log.form == "ring" else 0)


def test_stopped_tracker_logs_neither_guest_nor_devices(armed: Armed) -> None:
    tracker, machine = armed
    assert machine.memory._device_watchers.snapshot()
    tracker.stop()
    assert not machine.memory._device_watchers.snapshot()
    machine.store(BASE, 1)
    if machine.kvm.vram_log.form == "ring":
        ring = machine.kvm._vcpu.ring
        assert ring is not None
        assert not ring.waiting
    else:
        with pytest.raises(KernelError, match="KVM_GET_DIRTY_LOG vm slot 1: ENOENT"):
            machine.kvm.vram_log.fetch(0, 1)


def test_second_tracker_is_refused_and_the_first_misses_nothing(armed: Armed) -> None:
    tracker, machine = armed
    with pytest.raises(Refused, match="another tracker reads its log"):
        KvmLogTracker().start(machine.extent(PAGES))
    machine.store(BASE, 1)
    assert tracker.collect() == PageRuns([(0, 1)])
    tracker.stop()
    other = KvmLogTracker()
    other.start(machine.extent(PAGES))
    other.stop()


def test_collect_after_close_raises_and_stop_succeeds(armed: Armed) -> None:
    tracker, machine = armed
    machine.ended = True
    machine.kvm.close()
    with pytest.raises(TargetGone):
        tracker.collect()
    tracker.stop()
    with pytest.raises(VramtapError, match="not started"):
        tracker.collect()


# 3: mov edi, VRAM_BASE; mov ecx, 4096; 1: inc dword [rdi]; add edi, 4096; dec ecx; jnz 1b; hlt; jmp 3b
ALL_PAGES = bytes.fromhex("bf000000e0 b900100000 ff07 81c700100000 ffc9 75f4 f4 ebe7")


def test_overflow_makes_each_window_all_dirty_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with TinyMachine(ALL_PAGES, "ring", ring_entries=1024) as machine:
        tracker = KvmLogTracker()
        tracker.start(machine.extent(4096, 0))
        tracker.collect()
        machine.until_halt()
        monkeypatch.setattr(machine.kvm.vram_log, "_overflow", True)
        for window in ((0, 100), (100, 4096)):
            answer = tracker.collect(window)
            assert isinstance(answer, AllDirty)
            assert answer.reason is Reason.OVERFLOW
            assert "dirty ring" in answer.detail
            assert tracker.collect(window) == PageRuns()
        tracker.stop()


def test_full_ring_reports_all_pages_or_all_dirty(stress: int) -> None:
    with TinyMachine(ALL_PAGES, "ring", ring_entries=1024) as machine:
        tracker = KvmLogTracker()
        tracker.start(machine.extent(4096, 0))
        tracker.collect()
        for _ in range(3 * stress):
            machine.until_halt()
            answer = tracker.collect()
            assert isinstance(answer, AllDirty) or answer == PageRuns.full(4096)
            assert tracker.collect() == PageRuns()
        tracker.stop()


# Waking


@contextmanager
def waiting(tracker: KvmLogTracker) -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether the callback came within ten seconds."""
    called = threading.Event()
    waker = tracker.wake(called.set)
    assert waker is not None
    try:
        yield lambda: called.wait(10)
    finally:
        waker.cancel()


def test_store_wakes_and_is_in_the_next_collect(armed: Armed) -> None:
    tracker, machine = armed
    with waiting(tracker) as woken:
        machine.store(BASE + 9 * PAGE_SIZE, 1)
        assert woken()
    assert tracker.collect() == PageRuns([(9, 10)])
    assert tracker.collect() == PageRuns()


def test_device_write_wakes(armed: Armed) -> None:
    tracker, machine = armed
    with waiting(tracker) as woken:
        machine.memory.wrote(BASE + PAGE_SIZE, 1)
        assert woken()
    assert tracker.collect() == PageRuns([(1, 2)])


def test_pending_pages_wake_at_once(armed: Armed) -> None:
    tracker, _ = armed
    tracker.restore(PageRuns([(4, 5)]))
    calls: list[int] = []
    waker = tracker.wake(lambda: calls.append(1))
    assert waker is not None
    waker.cancel()
    assert calls == [1]
    assert tracker.collect() == PageRuns([(4, 5)])


def test_end_of_the_vm_wakes(armed: Armed) -> None:
    tracker, machine = armed
    with waiting(tracker) as woken:
        machine.ended = True
        machine.kvm.close()
        assert woken()
    with pytest.raises(TargetGone):
        tracker.collect()


def test_cancelled_wait_loses_nothing(armed: Armed) -> None:
    tracker, machine = armed
    waker = tracker.wake(lambda: None)
    assert waker is not None
    machine.store(BASE, 1)
    waker.cancel()
    assert tracker.collect() == PageRuns([(0, 1)])


def test_poll_neither_clears_the_log_nor_stops_the_guest(
    armed: Armed, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker, machine = armed
    polls: list[Callable[[], bool]] = []

    class Watch:
        def __init__(self, poll: Callable[[], bool], callback: Callable[[], None]) -> None:
            polls.append(poll)

    monkeypatch.setattr("vramtap.trackers.machine.kvmlog.IdleWatch", Watch)
    tracker.wake(lambda: None)
    (poll,) = polls
    before = machine.pauses
    assert not poll()
    machine.store(BASE, 1)
    assert poll()
    assert poll()
    assert machine.pauses == before
    assert tracker.collect() == PageRuns([(0, 1)])
    assert not poll()


def test_wake_is_none_if_no_thread_starts(armed: Armed, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(*arguments: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("vramtap.trackers.machine.kvmlog.IdleWatch", no_thread)
    assert armed[0].wake(lambda: None) is None


def test_pixels_are_read_from_the_extent_itself(armed: Armed) -> None:
    tracker, machine = armed
    source = tracker.read_from
    assert isinstance(source, Extent)
    assert isinstance(source.space, GuestSpace)
    assert (source.address, source.pages) == (machine.memory.vram.ctypes.data + BASE, PAGES)
