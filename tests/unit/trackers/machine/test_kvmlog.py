"""What only `kvmlog` must do; the contract is held in tests/contract."""

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
    """Counts how often it is paused, and may have ended."""

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


def test_memory_that_is_no_machines_is_refused() -> None:
    with pytest.raises(VramtapError, match="not memory of the built-in VM"):
        KvmLogTracker().start(extent_of(np.zeros(PAGE_SIZE, dtype=np.uint8))[0])


def test_another_cpu_is_refused_and_the_right_one_named() -> None:
    class Emulated(TinyMachine):
        @property
        def cpu(self) -> Cpu:
            return emulated

    with Emulated(b"\xf4") as machine:
        emulated: Cpu = UnicornCpu(GuestMemory(), SilentPorts())
        with pytest.raises(VramtapError, match=r"CPU is unicorn.*\(use \?cpu=kvm\)"):
            KvmLogTracker().start(machine.extent(PAGES))


def test_an_extent_past_the_video_rams_end_is_refused() -> None:
    with TinyMachine(b"\xf4") as machine:
        with pytest.raises(VramtapError, match="past the end"):
            KvmLogTracker().start(machine.extent(2, VRAM_BYTES // PAGE_SIZE - 1))
        machine.kvm.vram_log.start()


def test_only_pages_of_the_extent_are_named(armed: Armed) -> None:
    tracker, machine = armed
    machine.store(BASE - 1, 1)
    machine.store(BASE, 1)
    machine.store(BASE + PAGES * PAGE_SIZE - 1, 1)
    machine.store(BASE + PAGES * PAGE_SIZE, 1)
    assert tracker.collect() == PageRuns([(0, 1), (PAGES - 1, PAGES)])
    assert tracker.collect() == PageRuns()


def test_what_devices_write_is_named_too(armed: Armed) -> None:
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


def test_disarmed_nothing_is_logged_and_no_device_is_followed(armed: Armed) -> None:
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


def test_a_second_tracker_is_refused_and_the_first_sees_all(armed: Armed) -> None:
    tracker, machine = armed
    with pytest.raises(Refused, match="another tracker reads its log"):
        KvmLogTracker().start(machine.extent(PAGES))
    machine.store(BASE, 1)
    assert tracker.collect() == PageRuns([(0, 1)])
    tracker.stop()
    other = KvmLogTracker()
    other.start(machine.extent(PAGES))
    other.stop()


def test_a_machine_that_ended_can_be_disarmed_and_one_that_was_closed_is_gone(armed: Armed) -> None:
    tracker, machine = armed
    machine.ended = True
    machine.kvm.close()
    with pytest.raises(TargetGone):
        tracker.collect()
    tracker.stop()
    with pytest.raises(VramtapError, match="not armed"):
        tracker.collect()


# 3: mov edi, VRAM_BASE; mov ecx, 4096; 1: inc dword [rdi]; add edi, 4096; dec ecx; jnz 1b; hlt; jmp 3b
ALL_PAGES = bytes.fromhex("bf000000e0 b900100000 ff07 81c700100000 ffc9 75f4 f4 ebe7")


def test_an_overflow_is_everything_for_each_window_once(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_what_a_full_ring_held_is_named_or_everything_is(storm: int) -> None:
    with TinyMachine(ALL_PAGES, "ring", ring_entries=1024) as machine:
        tracker = KvmLogTracker()
        tracker.start(machine.extent(4096, 0))
        tracker.collect()
        for _ in range(3 * storm):
            machine.until_halt()
            answer = tracker.collect()
            assert isinstance(answer, AllDirty) or answer == PageRuns.full(4096)
            assert tracker.collect() == PageRuns()
        tracker.stop()


# Waiting for the first write


@contextmanager
def waiting(tracker: KvmLogTracker) -> Iterator[Callable[[], bool]]:
    """Whether it has called back within ten seconds."""
    called = threading.Event()
    waker = tracker.wake(called.set)
    assert waker is not None
    try:
        yield lambda: called.wait(10)
    finally:
        waker.cancel()


def test_a_store_wakes_and_is_in_the_next_collect(armed: Armed) -> None:
    tracker, machine = armed
    with waiting(tracker) as woken:
        machine.store(BASE + 9 * PAGE_SIZE, 1)
        assert woken()
    assert tracker.collect() == PageRuns([(9, 10)])
    assert tracker.collect() == PageRuns()


def test_a_device_wakes(armed: Armed) -> None:
    tracker, machine = armed
    with waiting(tracker) as woken:
        machine.memory.wrote(BASE + PAGE_SIZE, 1)
        assert woken()
    assert tracker.collect() == PageRuns([(1, 2)])


def test_what_is_left_over_wakes_at_once_and_once(armed: Armed) -> None:
    tracker, _ = armed
    tracker.restore(PageRuns([(4, 5)]))
    calls: list[int] = []
    waker = tracker.wake(lambda: calls.append(1))
    assert waker is not None
    waker.cancel()
    assert calls == [1]
    assert tracker.collect() == PageRuns([(4, 5)])


def test_the_end_of_the_machine_wakes(armed: Armed) -> None:
    tracker, machine = armed
    with waiting(tracker) as woken:
        machine.ended = True
        machine.kvm.close()
        assert woken()
    with pytest.raises(TargetGone):
        tracker.collect()


def test_cancelled_in_time_nothing_is_lost(armed: Armed) -> None:
    tracker, machine = armed
    waker = tracker.wake(lambda: None)
    assert waker is not None
    machine.store(BASE, 1)
    waker.cancel()
    assert tracker.collect() == PageRuns([(0, 1)])


def test_the_question_clears_nothing_and_stops_nobody(armed: Armed, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker, machine = armed
    questions: list[Callable[[], bool]] = []

    class Watch:
        def __init__(self, question: Callable[[], bool], answer: Callable[[], None]) -> None:
            questions.append(question)

    monkeypatch.setattr("vramtap.trackers.machine.kvmlog.IdleWatch", Watch)
    tracker.wake(lambda: None)
    (question,) = questions
    before = machine.pauses
    assert not question()
    machine.store(BASE, 1)
    assert question()
    assert question()
    assert machine.pauses == before
    assert tracker.collect() == PageRuns([(0, 1)])
    assert not question()


def test_where_no_thread_is_to_be_had_it_must_be_asked(armed: Armed, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(*arguments: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("vramtap.trackers.machine.kvmlog.IdleWatch", no_thread)
    assert armed[0].wake(lambda: None) is None


def test_it_reads_the_memory_itself(armed: Armed) -> None:
    tracker, machine = armed
    source = tracker.read_from
    assert isinstance(source, Extent)
    assert isinstance(source.space, GuestSpace)
    assert (source.address, source.pages) == (machine.memory.vram.ctypes.data + BASE, PAGES)
