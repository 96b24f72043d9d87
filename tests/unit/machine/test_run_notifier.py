"""Runs and their watchers: whatever the order of joining and leaving, no run goes unnoticed."""

from __future__ import annotations

import threading
from enum import Enum, auto
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.machine_code import assemble
from vramtap.errors import VramtapError
from vramtap.machine.layout import VRAM_BASE
from vramtap.machine.machine import Machine
from vramtap.machine.run_notifier import RunNotifier

if TYPE_CHECKING:
    from collections.abc import Callable


class Diary:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.threads: set[int] = set()
        self.halted = threading.Event()
        self.stopped = threading.Event()

    def run_began(self) -> None:
        self.told.append("begins")

    def run_ended(self, *, halted: bool) -> None:
        self.told.append("halted" if halted else "stopped")
        self.threads.add(threading.get_ident())
        (self.halted if halted else self.stopped).set()


class Step(Enum):
    RUN = auto()
    JOIN = auto()
    LEAVE = auto()


@given(st.lists(st.sampled_from(Step), max_size=30))
def test_who_joins_is_told_every_end_that_follows_and_each_beginning_before_it(steps: list[Step]) -> None:
    runs, joined = RunNotifier(), Diary()
    expected: list[str] = []
    leave: Callable[[], None] | None = None
    running = False
    for step in steps:
        if step is Step.RUN:
            running = not running
            runs.begin() if running else runs.end(halted=True)
            expected += ["begins" if running else "halted"] * (leave is not None)
        elif step is Step.JOIN and leave is None:
            leave = runs.watch(joined)
            expected += ["begins"] * running
        elif step is Step.LEAVE and leave is not None:
            leave()
            leave = None
    assert joined.told == expected


def test_each_of_many_is_told_and_one_leaves_alone() -> None:
    runs, one, other = RunNotifier(), Diary(), Diary()
    leave = runs.watch(one)
    runs.watch(other)
    runs.begin()
    leave()
    leave()
    runs.end(halted=False)
    assert one.told == ["begins"]
    assert other.told == ["begins", "stopped"]


def test_one_may_leave_while_it_is_told_an_end() -> None:
    runs, after = RunNotifier(), Diary()

    class Leaving(Diary):
        def run_ended(self, *, halted: bool) -> None:
            super().run_ended(halted=halted)
            leave()

    leaving = Leaving()
    leave = runs.watch(leaving)
    runs.watch(after)
    for _ in range(2):
        runs.begin()
        runs.end(halted=True)
    assert leaving.told == ["begins", "halted"]
    assert after.told == ["begins", "halted"] * 2


# The machine's

WAITING = "1: hlt; jmp 1b"
ENDLESS = "1: jmp 1b"


def await_run(guest: Machine) -> None:
    """Wait until the CPU runs."""
    while not guest.running:
        assert not guest.wait_end(0.001), guest.ended


@pytest.mark.parametrize("cpu", ["unicorn", "kvm"])
def test_a_machine_tells_each_halt_on_its_thread(cpu: str) -> None:
    diary = Diary()
    guest = Machine(assemble(WAITING), cpu=cpu)  # type: ignore[arg-type]  # of a parameter
    guest.runs.watch(diary)
    with guest:
        for _ in range(3):
            assert diary.halted.wait(60)
            diary.halted.clear()
            assert not guest.running
            guest.raise_line()
    assert len(diary.told) >= 6
    assert diary.told == ["begins", "halted"] * (len(diary.told) // 2)
    assert diary.threads == {guest._thread.ident}
    assert guest.halts == len(diary.told) // 2


@pytest.mark.parametrize("cpu", ["unicorn", "kvm"])
def test_a_machine_tells_that_it_was_stopped_and_goes_on(cpu: str) -> None:
    with Machine(assemble(ENDLESS), cpu=cpu) as guest:  # type: ignore[arg-type]  # of a parameter
        diary = Diary()
        guest.runs.watch(diary)
        await_run(guest)
        with guest.paused():
            assert diary.stopped.wait(60)
            assert not guest.running
        await_run(guest)
    assert diary.told[-1] == "stopped", "closed"
    assert not diary.halted.is_set()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (f"mov ${VRAM_BASE}, %edi; incq (%rdi); ud2", "invalid opcode"),
        ("mov $7, %al; out %al, $0xF4; hlt", "status 7"),
    ],
)
def test_the_last_run_of_a_machine_has_an_end_too(source: str, said: str) -> None:
    diary = Diary()
    guest = Machine(assemble(source), cpu="unicorn")
    guest.runs.watch(diary)
    with guest:
        assert diary.stopped.wait(60)
        assert guest.wait_end(60)
    assert diary.told == ["begins", "stopped"]
    assert said in str(guest.ended)


def test_it_has_an_end_where_the_cpu_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise VramtapError("KVM_RUN", "machine", "for the test")

    diary = Diary()
    guest = Machine(assemble(WAITING), cpu="unicorn")
    guest.runs.watch(diary)
    monkeypatch.setattr(guest.cpu, "run", fail)
    with guest:
        assert guest.wait_end(60)
    assert diary.told == ["begins", "stopped"]
