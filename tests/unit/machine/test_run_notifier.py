"""RunNotifier: watchers receive every run, whenever they are added and removed."""

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


class Recorder:
    """Records the events it receives."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.threads: set[int] = set()
        self.halted = threading.Event()
        self.stopped = threading.Event()

    def run_began(self) -> None:
        self.events.append("begins")

    def run_ended(self, *, halted: bool) -> None:
        self.events.append("halted" if halted else "stopped")
        self.threads.add(threading.get_ident())
        (self.halted if halted else self.stopped).set()


class Step(Enum):
    RUN = auto()
    WATCH = auto()
    REMOVE = auto()


@given(st.lists(st.sampled_from(Step), max_size=30))
def test_watcher_receives_every_end_and_the_beginning_before_it(steps: list[Step]) -> None:
    runs, watcher = RunNotifier(), Recorder()
    expected: list[str] = []
    remove: Callable[[], None] | None = None
    running = False
    for step in steps:
        if step is Step.RUN:
            running = not running
            runs.begin() if running else runs.end(halted=True)
            expected += ["begins" if running else "halted"] * (remove is not None)
        elif step is Step.WATCH and remove is None:
            remove = runs.watch(watcher)
            expected += ["begins"] * running
        elif step is Step.REMOVE and remove is not None:
            remove()
            remove = None
    assert watcher.events == expected


def test_removing_one_watcher_keeps_the_others() -> None:
    runs, one, other = RunNotifier(), Recorder(), Recorder()
    remove = runs.watch(one)
    runs.watch(other)
    runs.begin()
    remove()
    remove()
    runs.end(halted=False)
    assert one.events == ["begins"]
    assert other.events == ["begins", "stopped"]


def test_watcher_may_remove_itself_at_the_end_of_a_run() -> None:
    runs, after = RunNotifier(), Recorder()

    class RemovesItself(Recorder):
        def run_ended(self, *, halted: bool) -> None:
            super().run_ended(halted=halted)
            remove()

    removing = RemovesItself()
    remove = runs.watch(removing)
    runs.watch(after)
    for _ in range(2):
        runs.begin()
        runs.end(halted=True)
    assert removing.events == ["begins", "halted"]
    assert after.events == ["begins", "halted"] * 2


# With a machine

WAITING = "1: hlt; jmp 1b"
ENDLESS = "1: jmp 1b"


def await_run(guest: Machine) -> None:
    """Wait until the CPU runs."""
    while not guest.running:
        assert not guest.wait_end(0.001), guest.ended


@pytest.mark.parametrize("cpu", ["unicorn", "kvm"])
def test_machine_reports_each_halt_on_its_thread(cpu: str) -> None:
    recorder = Recorder()
    guest = Machine(assemble(WAITING), cpu=cpu)  # type: ignore[arg-type]  # of a parameter
    guest.runs.watch(recorder)
    with guest:
        for _ in range(3):
            assert recorder.halted.wait(60)
            recorder.halted.clear()
            assert not guest.running
            guest.raise_line()
    assert len(recorder.events) >= 6
    assert recorder.events == ["begins", "halted"] * (len(recorder.events) // 2)
    assert recorder.threads == {guest._thread.ident}
    assert guest.halts == len(recorder.events) // 2


@pytest.mark.parametrize("cpu", ["unicorn", "kvm"])
def test_machine_reports_stops_from_outside(cpu: str) -> None:
    with Machine(assemble(ENDLESS), cpu=cpu) as guest:  # type: ignore[arg-type]  # of a parameter
        recorder = Recorder()
        guest.runs.watch(recorder)
        await_run(guest)
        with guest.paused():
            assert recorder.stopped.wait(60)
            assert not guest.running
        await_run(guest)
    assert recorder.events[-1] == "stopped", "closed"
    assert not recorder.halted.is_set()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (f"mov ${VRAM_BASE}, %edi; incq (%rdi); ud2", "invalid opcode"),
        ("mov $7, %al; out %al, $0xF4; hlt", "status 7"),
    ],
)
def test_last_run_of_a_machine_has_an_end(source: str, message: str) -> None:
    recorder = Recorder()
    guest = Machine(assemble(source), cpu="unicorn")
    guest.runs.watch(recorder)
    with guest:
        assert recorder.stopped.wait(60)
        assert guest.wait_end(60)
    assert recorder.events == ["begins", "stopped"]
    assert message in str(guest.ended)


def test_run_of_a_failing_cpu_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise VramtapError("KVM_RUN", "machine", "for the test")

    recorder = Recorder()
    guest = Machine(assemble(WAITING), cpu="unicorn")
    guest.runs.watch(recorder)
    monkeypatch.setattr(guest.cpu, "run", fail)
    with guest:
        assert guest.wait_end(60)
    assert recorder.events == ["begins", "stopped"]
