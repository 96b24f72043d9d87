"""MachineWatch over a machine that does as it is told: no store goes unnoticed, nobody asks for nothing."""

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
from vramtap.pages import PAGE_SIZE
from vramtap.trackers.machine.wake import MachineWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vramtap.machine.run_notifier import RunNotifier

NEVER_S = 1e6
"""No test takes so long: what is seen then is not the timer's doing."""
SOON_S = 1e-3
ROUNDS = 300
MEMORY = GuestMemory()


class Guest:
    """A machine, and a log of whether anything was stored."""

    def __init__(self) -> None:
        self.machine = SoftMachine(MEMORY)
        self.runs: RunNotifier = self.machine.runs
        self.space = GuestSpace(self.machine)
        self.written = False
        self.asked = 0
        self.asked_on: list[int] = []

    def question(self) -> bool:
        self.asked += 1
        self.asked_on.append(threading.get_ident())
        return self.written

    def run(self, *, storing: bool) -> None:
        self.runs.begin()
        self.written |= storing
        self.runs.end(halted=True)

    def watch(self, answer: Callable[[], None], interval_s: float = NEVER_S) -> MachineWatch:
        return MachineWatch(self.space, self.question, answer, interval_s)


@pytest.fixture(autouse=True)
def _all_threads_end() -> Iterator[None]:
    yield
    assert not any(thread.name == "vramtap-idle" for thread in threading.enumerate())


def timer_is_set(watch: MachineWatch) -> bool:
    """What the kernel says of its timer (proc_pid_fdinfo(5))."""
    text = Path(f"/proc/self/fdinfo/{watch._timer.fileno()}").read_text()
    return "it_value: (0, 0)" not in text


class Step(Enum):
    RUN_OR_HALT = auto()
    STORE = auto()
    CLEAR_BY_DEVICE = auto()
    WATCH = auto()
    COLLECT = auto()


@given(st.lists(st.sampled_from(Step), max_size=40))
def test_while_it_stands_still_a_store_has_been_told(steps: list[Step]) -> None:
    guest, answers, running = Guest(), 0, False
    watch: MachineWatch | None = None

    def answer() -> None:
        nonlocal answers
        answers += 1

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
                answers = 0
                watch = guest.watch(answer)
            elif step is Step.COLLECT:
                if watch is not None:
                    watch.cancel()
                    watch = None
                guest.written = False
            if watch is not None:
                told_by_now = guest.written and not running
                assert answers == 1 if told_by_now else answers <= guest.written
    finally:
        if watch is not None:
            watch.cancel()


def test_what_was_stored_before_is_told_at_once() -> None:
    guest, told = Guest(), []
    guest.run(storing=True)
    watch = guest.watch(lambda: told.append(threading.get_ident()))
    assert told == [threading.get_ident()]
    watch.cancel()


def test_the_machines_thread_asks_and_tells() -> None:
    guest, told = Guest(), []
    watch = guest.watch(lambda: told.append(threading.get_ident()))
    ran_on = []
    for storing in (False, False, True, True):
        machine = threading.Thread(target=guest.run, kwargs={"storing": storing})
        machine.start()
        ran_on.append(machine.ident)
        machine.join()
    assert guest.asked_on == [threading.get_ident(), *ran_on[:3]], "at first, and until the first yes"
    assert told == ran_on[2:3]
    watch.cancel()


@pytest.mark.parametrize("runs_before", [True, False])
def test_a_store_of_a_run_that_never_ends_is_told(runs_before: bool) -> None:
    guest, told, asked = Guest(), threading.Event(), threading.Event()

    def question() -> bool:
        if guest.asked:
            asked.set()
        return guest.question()

    if runs_before:
        guest.runs.begin()
    watch = MachineWatch(guest.space, question, told.set, SOON_S)
    if not runs_before:
        guest.runs.begin()
    assert asked.wait(60), "asked again while it runs"
    assert not told.is_set()
    guest.written = True
    assert told.wait(60)
    watch.cancel()


def test_the_timer_is_set_while_it_runs_and_only_then() -> None:
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
    assert not timer_is_set(watch), "there is nothing left to find out"
    watch.cancel()


def test_one_that_is_entered_while_it_runs_sets_the_timer() -> None:
    guest = Guest()
    guest.runs.begin()
    watch = guest.watch(lambda: None)
    assert timer_is_set(watch)
    watch.cancel()


def test_what_a_device_stores_is_told_though_the_run_goes_on() -> None:
    guest, told = Guest(), []
    watch = guest.watch(lambda: told.append("told"))
    guest.runs.begin()
    guest.written = True
    guest.space.machine.memory.wrote(0, PAGE_SIZE)
    assert told == ["told"]
    watch.cancel()


def test_what_is_stored_while_it_is_asked_first_is_told() -> None:
    guest, told, stored = Guest(), threading.Event(), threading.Event()

    def store() -> None:
        guest.runs.begin()
        guest.written = True
        stored.set()
        guest.runs.end(halted=True)

    machine = threading.Thread(target=store)

    def question() -> bool:
        seen = guest.question()
        if guest.asked == 1:
            machine.start()
            assert stored.wait(60)
        return seen

    watch = MachineWatch(guest.space, question, told.set, NEVER_S)
    machine.join(60)
    assert told.is_set()
    watch.cancel()


def test_cancelled_it_asks_nobody_and_listens_to_nothing() -> None:
    guest, told = Guest(), []
    guest.run(storing=False)
    watch = guest.watch(lambda: told.append("told"))
    watch.cancel()
    asked = guest.asked
    guest.run(storing=True)
    guest.space.machine.memory.wrote(0, PAGE_SIZE)
    watch.run_ended(halted=True)  # one that was on its way
    assert guest.asked == asked
    assert told == []
    assert guest.runs._watchers == (), "it is kept by nobody"
    assert MEMORY._device_watchers.snapshot() == ()


def test_cancelling_waits_for_who_is_asking() -> None:
    guest, told, ended = Guest(), [], threading.Event()
    asking, go_on = threading.Event(), threading.Event()

    def question() -> bool:
        if guest.written:
            asking.set()
            assert go_on.wait(60)
        return guest.written

    watch = MachineWatch(guest.space, question, lambda: told.append(ended.is_set()), NEVER_S)
    machine = threading.Thread(target=lambda: guest.run(storing=True))
    machine.start()
    assert asking.wait(60)

    def cancel() -> None:
        watch.cancel()
        ended.set()

    cancelling = threading.Thread(target=cancel)
    cancelling.start()
    assert not ended.is_set()
    go_on.set()
    cancelling.join(60)
    machine.join(60)
    assert told == [False], "told, and before it was cancelled"
    assert ended.is_set()


def test_a_store_beside_the_beginning_of_the_watch_is_told() -> None:
    guest = Guest()
    for _ in range(ROUNDS):
        guest.written, told = False, threading.Event()
        together = threading.Barrier(2)

        def store(together: threading.Barrier = together) -> None:
            together.wait(60)
            guest.run(storing=True)

        machine = threading.Thread(target=store)
        machine.start()
        together.wait(60)
        watch = guest.watch(told.set)
        machine.join(60)
        assert told.is_set(), "both are done, so it is too late to be told"
        watch.cancel()


def test_none_is_told_after_the_end_of_the_watch() -> None:
    guest = Guest()
    for _ in range(ROUNDS):
        guest.written, cancelled, late = False, threading.Event(), threading.Event()
        together = threading.Barrier(2)

        def answer(cancelled: threading.Event = cancelled, late: threading.Event = late) -> None:
            if cancelled.is_set():
                late.set()

        def store(together: threading.Barrier = together) -> None:
            together.wait(60)
            guest.run(storing=True)

        watch = guest.watch(answer, SOON_S)
        machine = threading.Thread(target=store)
        machine.start()
        together.wait(60)
        watch.cancel()
        cancelled.set()
        machine.join(60)
        assert not late.is_set()


def test_without_a_thread_there_is_no_watch_and_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    guest = Guest()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(RuntimeError, match="can't start"):
        guest.watch(lambda: None)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    guest.run(storing=True)
    assert guest.asked == 0


def test_without_a_descriptor_there_is_no_watch() -> None:
    guest, limit = Guest(), resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limit[1]))
    try:
        with pytest.raises(KernelError, match="EMFILE"):
            guest.watch(lambda: None)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    guest.run(storing=True)
    assert guest.asked == 0
