"""MachineWatch on the real machine: a guest at rest wakes nobody, one that draws is noticed."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.machine_code import assemble
from vramtap.machine.layout import VRAM_BASE
from vramtap.machine.machine import Machine
from vramtap.machine.space import guest_space
from vramtap.pages import PageRuns
from vramtap.trackers.machine.wake import MachineWatch
from vramtap.trackers.userfault.log import LogTracker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NEVER_S = 1e6
"""No test takes so long: what is seen then is not the timer's doing."""
ROUNDS = 100
_READ, _FUTEX = 0, 202
"""System calls (kernel: arch/x86/entry/syscalls/syscall_64.tbl)."""

ON_A_KEY = "1: hlt; in $0x64, %al; test $1, %al; jz 1b; in $0x60, %al;"
ECHOING = f"mov ${VRAM_BASE}, %edi; {ON_A_KEY} mov %al, (%rdi); jmp 1b"
STORING_ON = f"mov ${VRAM_BASE}, %edi; {ON_A_KEY} 2: incq (%rdi); jmp 2b"
CLEARING = f"""
    .macro dispi index value
    mov $0x1CE, %dx; mov $\\index, %ax; out %ax, %dx
    inc %dx; mov $\\value, %ax; out %ax, %dx
    .endm
    {ON_A_KEY}
    dispi 1 64; dispi 2 48; dispi 3 32; dispi 4 0x41
    2: jmp 2b
"""

CPUS = ("unicorn", "kvm")


@pytest.fixture(params=CPUS)
def cpu(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def switches(thread: int) -> int:
    """How often a thread of ours has gone to sleep or has been made to."""
    status = Path(f"/proc/self/task/{thread}/status").read_text()
    return sum(int(line.split()[1]) for line in status.splitlines() if "ctxt_switches" in line)


def await_sleep(thread: int, asleep: Callable[[list[str]], bool]) -> None:
    """Wait until a thread of ours sleeps in the system call that is asked for (proc_pid_syscall(5))."""
    pause = threading.Event()
    for _ in range(60_000):
        words = Path(f"/proc/self/task/{thread}/syscall").read_text().split()
        if words[0] != "running" and asleep(words):
            return
        pause.wait(0.001)
    raise AssertionError(f"it does not come to rest: {words}")


def in_read(words: list[str]) -> bool:
    return int(words[0]) == _READ


def in_futex_for_ever(words: list[str]) -> bool:
    # futex(word, operation, value, timeout)
    return int(words[0]) == _FUTEX and int(words[4], 16) == 0


class Watched:
    """A machine that has halted, and a watch of its log.

    Args:
        machine: Runs.
        interval_s: Of the watch.
    """

    def __init__(self, machine: Machine, interval_s: float) -> None:
        self.machine = machine
        self.tracker = LogTracker()
        self.tracker.start(machine.extent)
        self.tracker.collect()
        self.asked = 0
        self._interval_s = interval_s
        self._written = self.tracker._pagemap.question(machine.extent.address, machine.extent.end)
        self.begin()

    def begin(self) -> None:
        """Begin a watch."""
        self.told = threading.Event()
        space, _ = guest_space(self.machine.extent)
        self.watch = MachineWatch(space, self._question, self.told.set, self._interval_s)
        self._watching = True

    def _question(self) -> bool:
        self.asked += 1
        return self._written()

    def cancel(self) -> None:
        """End the watch; harmless twice."""
        if self._watching:
            self._watching = False
            self.watch.cancel()

    def key(self) -> None:
        """Press one."""
        with self.machine.devices():
            self.machine.ps2.key(0x1E, down=True)

    def wake_for_nothing(self) -> None:
        """Let the guest run until it halts again."""
        before = self.machine.halts
        self.machine.raise_line()
        await_halts(self.machine, before + 1)


def await_halts(machine: Machine, count: int) -> None:
    while machine.halts < count or machine.running:
        assert not machine.wait_end(0.001), machine.ended


@contextlib.contextmanager
def watched(source: str, cpu: str, interval_s: float = NEVER_S) -> Iterator[Watched]:
    with Machine(assemble(source), cpu=cpu) as machine:  # type: ignore[arg-type]  # of a parameter
        await_halts(machine, 1)
        found = Watched(machine, interval_s)
        yield found
        found.cancel()
        found.tracker.stop()


def test_a_guest_that_runs_for_nothing_does_not_wake_the_watch_and_a_key_does(cpu: str) -> None:
    with watched(ECHOING, cpu) as found:
        thread = found.watch._thread.native_id
        assert thread is not None
        await_sleep(thread, in_read)
        before = switches(thread)
        for _ in range(50):
            found.wake_for_nothing()
        assert found.asked >= 50
        assert switches(thread) == before
        assert not found.told.is_set()
        found.key()
        assert found.told.wait(60)
        assert switches(thread) == before, "the machine's own thread has told it"
        found.cancel()
        assert found.tracker.collect() == PageRuns([(0, 1)])


def test_a_key_beside_the_beginning_of_the_watch_is_noticed(cpu: str) -> None:
    with watched(ECHOING, cpu) as found:
        found.cancel()
        for number in range(ROUNDS):
            together = threading.Barrier(2)

            def type_key(together: threading.Barrier = together) -> None:
                together.wait(60)
                found.key()

            typing = threading.Thread(target=type_key)
            typing.start()
            together.wait(60)
            found.begin()
            assert found.told.wait(60), number
            found.cancel()
            typing.join(60)
            assert found.tracker.collect() == PageRuns([(0, 1)]), number


def test_a_machine_may_end_under_the_watch(cpu: str) -> None:
    machine = Machine(assemble(STORING_ON), cpu=cpu)  # type: ignore[arg-type]  # of a parameter
    with machine:
        await_halts(machine, 1)
        found = Watched(machine, NEVER_S)
        found.key()
        while not machine.memory.vram[0]:
            assert not machine.wait_end(0.001), machine.ended
        assert not found.told.is_set()
    assert found.told.is_set(), "its last run has ended, too"
    found.cancel()
    found.tracker.stop()


def test_a_guest_that_never_halts_is_noticed(cpu: str) -> None:
    with watched(STORING_ON, cpu, 0.001) as found:
        found.key()
        assert found.told.wait(60)
        assert found.machine.halts == 1
        assert found.machine.running


def test_a_screen_that_the_display_clears_is_noticed_at_once(cpu: str) -> None:
    with watched(CLEARING, cpu) as found:
        found.key()
        assert found.told.wait(60)
        assert found.machine.halts == 1


def test_with_nothing_to_do_both_threads_sleep_for_ever() -> None:
    with Machine(cpu="unicorn", command_line="workload=idle mode=320x200") as machine:
        await_halts(machine, 1)
        found = Watched(machine, NEVER_S)
        machine_thread, watch_thread = machine._thread.native_id, found.watch._thread.native_id
        assert machine_thread is not None
        assert watch_thread is not None
        await_sleep(machine_thread, in_futex_for_ever)
        await_sleep(watch_thread, in_read)
        timer = Path(f"/proc/self/fdinfo/{found.watch._timer.fileno()}").read_text()
        assert "it_value: (0, 0)" in timer
        assert not found.told.is_set()
        found.cancel()
        found.tracker.stop()
