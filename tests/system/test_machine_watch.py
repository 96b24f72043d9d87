"""MachineWatch on the real VM: an idle guest wakes no thread, and a store is detected."""

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
from vramtap.machine.watch import MachineWatch
from vramtap.pages import PageRuns
from vramtap.trackers.userfault.log import LogTracker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NEVER_S = 1e6
"""Longer than any test, so that the timer plays no part."""
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
    """Return how often a thread of this process was switched away from."""
    status = Path(f"/proc/self/task/{thread}/status").read_text()
    return sum(int(line.split()[1]) for line in status.splitlines() if "ctxt_switches" in line)


def await_sleep(thread: int, asleep: Callable[[list[str]], bool]) -> None:
    """Wait until a thread of this process sleeps in a given system call (proc_pid_syscall(5))."""
    pause = threading.Event()
    for _ in range(60_000):
        words = Path(f"/proc/self/task/{thread}/syscall").read_text().split()
        if words[0] != "running" and asleep(words):
            return
        pause.wait(0.001)
    raise AssertionError(f"the thread does not sleep: {words}")


def in_read(words: list[str]) -> bool:
    return int(words[0]) == _READ


def in_futex_for_ever(words: list[str]) -> bool:
    # futex(word, operation, value, timeout)
    return int(words[0]) == _FUTEX and int(words[4], 16) == 0


class Watched:
    """A halted VM, a tracker, and a watch of the tracker's log.

    Args:
        machine: A VM that runs.
        interval_s: Interval of the watch, seconds.
    """

    def __init__(self, machine: Machine, interval_s: float) -> None:
        self.machine = machine
        self.tracker = LogTracker()
        self.tracker.start(machine.extent)
        self.tracker.collect()
        self.polls = 0
        self._interval_s = interval_s
        self._written = self.tracker._pagemap.question(machine.extent.address, machine.extent.end)
        self.begin()

    def begin(self) -> None:
        """Start a watch."""
        self.called = threading.Event()
        space, _ = guest_space(self.machine.extent)
        self.watch = MachineWatch(space.machine, self._poll, self.called.set, self._interval_s)
        self._watching = True

    def _poll(self) -> bool:
        self.polls += 1
        return self._written()

    def cancel(self) -> None:
        """Cancel the watch; harmless when called twice."""
        if self._watching:
            self._watching = False
            self.watch.cancel()

    def key(self) -> None:
        """Press a key."""
        with self.machine.devices():
            self.machine.ps2.key(0x1E, down=True)

    def run_once(self) -> None:
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


def test_runs_without_stores_do_not_wake_the_watch_thread(cpu: str) -> None:
    with watched(ECHOING, cpu) as found:
        thread = found.watch._thread.native_id
        assert thread is not None
        await_sleep(thread, in_read)
        before = switches(thread)
        for _ in range(50):
            found.run_once()
        assert found.polls >= 50
        assert switches(thread) == before
        assert not found.called.is_set()
        found.key()
        assert found.called.wait(60)
        assert switches(thread) == before, "the machine's own thread called back"
        found.cancel()
        assert found.tracker.collect() == PageRuns([(0, 1)])


def test_key_concurrent_with_the_start_of_a_watch_is_detected(cpu: str) -> None:
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
            assert found.called.wait(60), number
            found.cancel()
            typing.join(60)
            assert found.tracker.collect() == PageRuns([(0, 1)]), number


def test_vm_may_end_during_a_watch(cpu: str) -> None:
    machine = Machine(assemble(STORING_ON), cpu=cpu)  # type: ignore[arg-type]  # of a parameter
    with machine:
        await_halts(machine, 1)
        found = Watched(machine, NEVER_S)
        found.key()
        while not machine.memory.vram[0]:
            assert not machine.wait_end(0.001), machine.ended
        assert not found.called.is_set()
    assert found.called.is_set(), "the last run has an end, too"
    found.cancel()
    found.tracker.stop()


def test_guest_that_never_halts_is_detected(cpu: str) -> None:
    with watched(STORING_ON, cpu, 0.001) as found:
        found.key()
        assert found.called.wait(60)
        assert found.machine.halts == 1
        assert found.machine.running


def test_screen_cleared_by_the_display_is_detected_at_once(cpu: str) -> None:
    with watched(CLEARING, cpu) as found:
        found.key()
        assert found.called.wait(60)
        assert found.machine.halts == 1


def test_both_threads_sleep_while_the_guest_is_idle() -> None:
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
        assert not found.called.is_set()
        found.cancel()
        found.tracker.stop()
