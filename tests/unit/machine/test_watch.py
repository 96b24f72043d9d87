"""MachineWatch on a machine that the test controls: every store is reported, without useless polls."""

from __future__ import annotations

import resource
import threading
from enum import Enum, auto
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.soft_mmu import SoftMachine
from vramtap.errors import KernelError
from vramtap.machine.memory import GuestMemory
from vramtap.machine.space import GuestSpace
from vramtap.machine.watch import MachineWatch
from vramtap.pages import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vramtap.machine.run_notifier import RunNotifier

NEVER_S = 1e6
"""Longer than any test, so that the timer plays no part."""
SOON_S = 1e-3
ROUNDS = 300
MEMORY = GuestMemory()


class Guest:
    """A machine, and whether anything was stored."""

    def __init__(self) -> None:
        self.machine = SoftMachine(MEMORY)
        self.runs: RunNotifier = self.machine.runs
        self.space = GuestSpace(self.machine)
        self.written = False
        self.polls = 0
        self.poll_threads: list[int] = []

    def poll(self) -> bool:
        self.polls += 1
        self.poll_threads.append(threading.get_ident())
        return self.written

    def run(self, *, storing: bool) -> None:
        self.runs.begin()
        self.written |= storing
        self.runs.end(halted=True)

    def watch(self, callback: Callable[[], None], interval_s: float = NEVER_S) -> MachineWatch:
        return MachineWatch(self.machine, self.poll, callback, interval_s)


@pytest.fixture(autouse=True)
def _all_threads_end() -> Iterator[None]:
    yield
    assert not any(thread.name == "vramtap-idle" for thread in threading.enumerate())


def timer_is_set(watch: MachineWatch) -> bool:
    """Return whether the kernel says that the timer is set (proc_pid_fdinfo(5))."""
    text = Path(f"/proc/self/fdinfo/{watch._timer.fileno()}").read_text()
    return "it_value: (0, 0)" not in text


class Step(Enum):
    RUN_OR_HALT = auto()
    STORE = auto()
    CLEAR_BY_DEVICE = auto()
    WATCH = auto()
    COLLECT = auto()


@given(st.lists(st.sampled_from(Step), max_size=40))
def test_store_is_reported_by_the_end_of_its_run(steps: list[Step]) -> None:
    guest, calls, running = Guest(), 0, False
    watch: MachineWatch | None = None

    def callback() -> None:
        nonlocal calls
        calls += 1

    try:
        for step in steps:
            if step is Step.RUN_OR_HALT:
                guest.runs.end(halted=True) if running else guest.runs.begin()
                running = not running
            elif step is Step.STORE and running:
                guest.written = True
            elif step is Step.CLEAR_BY_DEVICE:
                guest.written = True
                guest.space.machine.memory.wrote(0, PAGE_SIZE)
            elif step is Step.WATCH and watch is None:
                calls = 0
                watch = guest.watch(callback)
            elif step is Step.COLLECT:
                if watch is not None:
                    watch.cancel()
                    watch = None
                guest.written = False
            if watch is not None:
                reported = guest.written and not running
                assert calls == 1 if reported else calls <= guest.written
    finally:
        if watch is not None:
            watch.cancel()


def test_earlier_store_is_reported_at_once() -> None:
    guest, called = Guest(), []
    guest.run(storing=True)
    watch = guest.watch(lambda: called.append(threading.get_ident()))
    assert called == [threading.get_ident()]
    watch.cancel()


def test_machine_thread_polls_and_calls_back() -> None:
    guest, called = Guest(), []
    watch = guest.watch(lambda: called.append(threading.get_ident()))
    ran_on = []
    for storing in (False, False, True, True):
        machine = threading.Thread(target=guest.run, kwargs={"storing": storing})
        machine.start()
        ran_on.append(machine.ident)
        machine.join()
    assert guest.poll_threads == [threading.get_ident(), *ran_on[:3]], (
        "at the start, and until the first True"
    )
    assert called == ran_on[2:3]
    watch.cancel()


@pytest.mark.parametrize("runs_before", [True, False])
def test_store_in_an_endless_run_is_reported(runs_before: bool) -> None:
    guest, called, polled = Guest(), threading.Event(), threading.Event()

    def poll() -> bool:
        if guest.polls:
            polled.set()
        return guest.poll()

    if runs_before:
        guest.runs.begin()
    watch = MachineWatch(guest.machine, poll, called.set, SOON_S)
    if not runs_before:
        guest.runs.begin()
    assert polled.wait(60), "polls again during the run"
    assert not called.is_set()
    guest.written = True
    assert called.wait(60)
    watch.cancel()


def test_timer_is_set_only_during_runs() -> None:
    guest = Guest()
    watch = guest.watch(lambda: None)
    for _ in range(3):
        assert not timer_is_set(watch)
        guest.runs.begin()
        assert timer_is_set(watch)
        guest.runs.end(halted=False)
    assert not timer_is_set(watch)
    guest.run(storing=True)
    guest.runs.begin()
    assert not timer_is_set(watch), "the watch is over"
    watch.cancel()


def test_watch_during_a_run_sets_the_timer() -> None:
    guest = Guest()
    guest.runs.begin()
    watch = guest.watch(lambda: None)
    assert timer_is_set(watch)
    watch.cancel()


def test_device_store_is_reported_during_the_run() -> None:
    guest, called = Guest(), []
    watch = guest.watch(lambda: called.append("called"))
    guest.runs.begin()
    guest.written = True
    guest.space.machine.memory.wrote(0, PAGE_SIZE)
    assert called == ["called"]
    watch.cancel()


def test_store_during_the_first_poll_is_reported() -> None:
    guest, called, stored = Guest(), threading.Event(), threading.Event()

    def store() -> None:
        guest.runs.begin()
        guest.written = True
        stored.set()
        guest.runs.end(halted=True)

    machine = threading.Thread(target=store)

    def poll() -> bool:
        seen = guest.poll()
        if guest.polls == 1:
            machine.start()
            assert stored.wait(60)
        return seen

    watch = MachineWatch(guest.machine, poll, called.set, NEVER_S)
    machine.join(60)
    assert called.is_set()
    watch.cancel()


def test_cancelled_watch_neither_polls_nor_watches() -> None:
    guest, called = Guest(), []
    guest.run(storing=False)
    watch = guest.watch(lambda: called.append("called"))
    watch.cancel()
    polls = guest.polls
    guest.run(storing=True)
    guest.space.machine.memory.wrote(0, PAGE_SIZE)
    watch.run_ended(halted=True)  # a late call
    assert guest.polls == polls
    assert called == []
    assert guest.runs._watchers == (), "the notifier does not keep it"
    assert MEMORY._device_watchers.snapshot() == ()


def test_cancel_waits_for_a_poll_under_way() -> None:
    guest, called, ended = Guest(), [], threading.Event()
    polling, go_on = threading.Event(), threading.Event()

    def poll() -> bool:
        if guest.written:
            polling.set()
            assert go_on.wait(60)
        return guest.written

    watch = MachineWatch(guest.machine, poll, lambda: called.append(ended.is_set()), NEVER_S)
    machine = threading.Thread(target=lambda: guest.run(storing=True))
    machine.start()
    assert polling.wait(60)

    def cancel() -> None:
        watch.cancel()
        ended.set()

    cancelling = threading.Thread(target=cancel)
    cancelling.start()
    assert not ended.is_set()
    go_on.set()
    cancelling.join(60)
    machine.join(60)
    assert called == [False], "called, and before cancel returned"
    assert ended.is_set()


def test_store_concurrent_with_the_start_is_reported() -> None:
    guest = Guest()
    for _ in range(ROUNDS):
        guest.written, called = False, threading.Event()
        together = threading.Barrier(2)

        def store(together: threading.Barrier = together) -> None:
            together.wait(60)
            guest.run(storing=True)

        machine = threading.Thread(target=store)
        machine.start()
        together.wait(60)
        watch = guest.watch(called.set)
        machine.join(60)
        assert called.is_set(), "both threads are done: no later call can come"
        watch.cancel()


def test_no_callback_after_cancel() -> None:
    guest = Guest()
    for _ in range(ROUNDS):
        guest.written, cancelled, late = False, threading.Event(), threading.Event()
        together = threading.Barrier(2)

        def callback(cancelled: threading.Event = cancelled, late: threading.Event = late) -> None:
            if cancelled.is_set():
                late.set()

        def store(together: threading.Barrier = together) -> None:
            together.wait(60)
            guest.run(storing=True)

        watch = guest.watch(callback, SOON_S)
        machine = threading.Thread(target=store)
        machine.start()
        together.wait(60)
        watch.cancel()
        cancelled.set()
        machine.join(60)
        assert not late.is_set()


def test_failed_thread_start_leaks_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    guest = Guest()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(RuntimeError, match="can't start"):
        guest.watch(lambda: None)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    guest.run(storing=True)
    assert guest.polls == 0


def test_missing_descriptor_raises() -> None:
    guest, limit = Guest(), resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limit[1]))
    try:
        with pytest.raises(KernelError, match="EMFILE"):
            guest.watch(lambda: None)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    guest.run(storing=True)
    assert guest.polls == 0
