"""Tracker `dirtybits` while a real CPU stores: no store is lost, and stores are lost without stop or flush.

The guest increments a counter in each page of the extent, page after page, for ever. The follower keeps a
copy and reads the reported pages. Now and then it stops the guest and compares the whole copy.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import pytest

from support.machine_code import assemble
from support.paged_kvm_guest import SCREEN, PagedMachine
from support.soft_mmu import SoftCpu, Tables
from support.two_steps import InTwoSteps
from vramtap.machine.cpu import Registers
from vramtap.machine.layout import IMAGE_BASE, VRAM_BASE
from vramtap.machine.machine import Machine
from vramtap.machine.space import GuestSpace, PausableMachine
from vramtap.memory.extent import Extent
from vramtap.pages import PAGE_SIZE, PageRuns
from vramtap.trackers.base import AllDirty
from vramtap.trackers.machine.dirtybits import DirtyBitsTracker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vramtap.machine.memory import GuestMemory

PAGES: Final = 2048
TABLES: Final = 0x20_0000
TOTAL: Final = 0x30_0000
"""Counter of all the guest's stores, outside the extent."""
FEW: Final = 128
"""Pages whose translations fit into Unicorn's TLB of 256 entries, so that it evicts none."""


def counting(pages: int) -> bytes:
    """Return a guest that pauses between two stores, so that pages get dirty one after the other."""
    return assemble(f"""
    mov ${TABLES}, %eax
    mov %rax, %cr3
    movabs ${SCREEN}, %rbx
1:  xor %ecx, %ecx
2:  mov %rcx, %rdx
    shl $12, %rdx
    incq (%rbx, %rdx)
    incq {TOTAL}
    mov $200, %esi
3:  dec %esi
    jnz 3b
    inc %ecx
    cmp ${pages}, %ecx
    jb 2b
    jmp 1b
""")


STORES: Final = 300_000
STORES_PER_SCAN: Final = 150
"""Least number of stores between two scans, so that the guest makes progress."""
ROUNDS: Final = 3000
"""Most rounds until a fault must show; a few are enough."""


class RunningCpu(SoftCpu):
    """A VM's CPU whose registers are known without a stop. Its flush still works."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine.memory)
        self._machine = machine

    def registers(self) -> Registers:
        return Registers(0, 0, 0, TABLES)

    def flush_tlb(self) -> None:
        with self._machine.paused():
            self._machine.cpu.flush_tlb()


class Unstopped:
    """A VM whose `paused` does not stop it."""

    def __init__(self, machine: Machine) -> None:
        self.memory = machine.memory
        self.runs = machine.runs
        self.cpu = RunningCpu(machine)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        yield


@dataclass
class Follower:
    """Keeps a copy of the counters, updated by a tracker's answers."""

    tracker: DirtyBitsTracker
    memory: GuestMemory

    def __post_init__(self) -> None:
        self.copy = np.zeros(PAGES * PAGE_SIZE, dtype=np.uint8)
        self.reported = 0

    def scan(self) -> None:
        answer = self.tracker.collect()
        runs = PageRuns.full(PAGES) if isinstance(answer, AllDirty) else answer
        self.reported += runs.count if not isinstance(answer, AllDirty) else 0
        self.tracker.read_from.read(runs, self.copy)

    @property
    def lost(self) -> bool:
        """Whether the copy differs; with the guest stopped, after a scan."""
        return not np.array_equal(self.copy, self.memory.vram[: PAGES * PAGE_SIZE])

    @property
    def stores(self) -> int:
        return int(self.memory.vram[: PAGES * PAGE_SIZE].view(np.uint64)[:: PAGE_SIZE // 8].sum())


def follow(
    stopping: Callable[[Machine], PausableMachine],
    *,
    until: Callable[[Follower, int], bool],
    check_every: int = 1,
    kind: type[DirtyBitsTracker] = DirtyBitsTracker,
    pages: int = PAGES,
) -> Follower:
    """Follow the counting guest until a condition holds."""
    machine = Machine(counting(pages), cpu="unicorn")
    tables = Tables(machine.memory, TABLES)
    tables.map(IMAGE_BASE, IMAGE_BASE)
    tables.map(TOTAL, TOTAL)
    tables.map(SCREEN, VRAM_BASE, PAGES)
    wrapped = stopping(machine)
    extent = Extent(GuestSpace(wrapped), machine.memory.vram.ctypes.data, PAGES)
    with machine:
        tracker = kind()
        tracker.start(extent)
        follower = Follower(tracker, machine.memory)
        for number in range(ROUNDS):
            await_stores(machine, STORES_PER_SCAN)
            follower.scan()
            if number % check_every == 0:
                with machine.paused():
                    follower.scan()
                    if until(follower, number):
                        break
        with machine.paused():
            tracker.stop()
    return follower


def await_stores(machine: Machine, count: int) -> None:
    """Let the guest make this many more stores."""
    total = machine.memory.words(TOTAL, 1)
    before = int(total[0])
    while int(total[0]) - before < count:
        assert not machine.wait_end(0.0001), machine.ended


def itself(machine: Machine) -> PausableMachine:
    return machine


def enough(follower: Follower, number: int) -> bool:
    assert not follower.lost, f"round {number}"
    return follower.stores >= STORES and number >= 100


def test_running_cpu_loses_no_store() -> None:
    follower = follow(itself, until=enough, check_every=5)
    assert follower.stores >= STORES
    assert follower.reported > PAGES


def test_non_atomic_clear_with_stopped_cpu_loses_no_store() -> None:
    assert follow(itself, until=enough, check_every=5, kind=InTwoSteps).reported > PAGES


def test_non_atomic_clear_with_running_cpu_loses_stores() -> None:
    assert follow(Unstopped, until=lambda follower, _: follower.lost, kind=InTwoSteps).lost


def test_clear_without_flush_loses_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(machine: Machine) -> PausableMachine:
        monkeypatch.setattr(machine.cpu, "flush_tlb", lambda: None)
        return machine

    assert follow(without, until=lambda follower, _: follower.lost, pages=FEW).lost


@pytest.mark.parametrize("flushed", [True, False])
def test_unflushed_translation_hides_the_next_store(flushed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = PagedMachine("unicorn")
    if not flushed:
        monkeypatch.setattr(machine.cpu, "flush_tlb", lambda: None)
    tracker = DirtyBitsTracker()
    tracker.start(machine.extent)
    tracker.collect()
    machine.store(SCREEN, 1)
    assert tracker.collect() == PageRuns([(0, 1)])
    machine.store(SCREEN, 2)
    assert (tracker.collect() == PageRuns([(0, 1)])) is flushed
    tracker.stop()
