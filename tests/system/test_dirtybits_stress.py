"""Dirty bits read and cleared while a real CPU stores: nothing is lost, and what it takes that nothing is.

The guest adds one to a counter in each page of the extent, page after page, for ever. Whoever follows it
keeps a copy, reads what is named, and now and then, with the guest stopped, compares all of it.
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
"""Where the guest counts all its stores, outside of what is followed."""
FEW: Final = 128
"""Pages whose translations all fit into Unicorn's TLB, of 256 entries: none is forgotten for want of room."""


def counting(pages: int) -> bytes:
    """A guest that takes its time between two stores: pages get dirty all the time, not all at once."""
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
STORES_A_LOOK: Final = 150
"""At least: however fast the guest is stopped, it gets on."""
ROUNDS: Final = 3000
"""By then a fault must have shown; it takes a few."""


class RunningCpu(SoftCpu):
    """A machine's CPU asked while it runs; translations are still forgotten as they should be."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine.memory)
        self._machine = machine

    def registers(self) -> Registers:
        return Registers(0, 0, 0, TABLES)

    def flush_tlb(self) -> None:
        with self._machine.paused():
            self._machine.cpu.flush_tlb()


class Unstopped:
    """The machine without its stop."""

    def __init__(self, machine: Machine) -> None:
        self.memory = machine.memory
        self.runs = machine.runs
        self.cpu = RunningCpu(machine)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        yield


@dataclass
class Follower:
    """Keeps a copy of the counters by what a tracker names."""

    tracker: DirtyBitsTracker
    memory: GuestMemory

    def __post_init__(self) -> None:
        self.mine = np.zeros(PAGES * PAGE_SIZE, dtype=np.uint8)
        self.named = 0

    def look(self) -> None:
        answer = self.tracker.collect()
        runs = PageRuns.full(PAGES) if isinstance(answer, AllDirty) else answer
        self.named += runs.count if not isinstance(answer, AllDirty) else 0
        self.tracker.read_from.read(runs, self.mine)

    @property
    def lost(self) -> bool:
        """With the guest stopped, and after a look."""
        return not np.array_equal(self.mine, self.memory.vram[: PAGES * PAGE_SIZE])

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
    """Follow the counting guest until it is enough."""
    machine = Machine(counting(pages), cpu="unicorn")
    tables = Tables(machine.memory, TABLES)
    tables.map(IMAGE_BASE, IMAGE_BASE)
    tables.map(TOTAL, TOTAL)
    tables.map(SCREEN, VRAM_BASE, PAGES)
    seen = stopping(machine)
    extent = Extent(GuestSpace(seen), machine.memory.vram.ctypes.data, PAGES)
    with machine:
        tracker = kind()
        tracker.start(extent)
        follower = Follower(tracker, machine.memory)
        for number in range(ROUNDS):
            await_stores(machine, STORES_A_LOOK)
            follower.look()
            if number % check_every == 0:
                with machine.paused():
                    follower.look()
                    if until(follower, number):
                        break
        with machine.paused():
            tracker.stop()
    return follower


def await_stores(machine: Machine, count: int) -> None:
    """Let the guest make so many stores more."""
    total = machine.memory.words(TOTAL, 1)
    before = int(total[0])
    while int(total[0]) - before < count:
        assert not machine.wait_end(0.0001), machine.ended


def itself(machine: Machine) -> PausableMachine:
    return machine


def enough(follower: Follower, number: int) -> bool:
    assert not follower.lost, f"round {number}"
    return follower.stores >= STORES and number >= 100


def test_a_storing_cpu_loses_nothing() -> None:
    follower = follow(itself, until=enough, check_every=5)
    assert follower.stores >= STORES
    assert follower.named > PAGES


def test_with_the_stop_even_a_clear_in_two_steps_loses_nothing() -> None:
    assert follow(itself, until=enough, check_every=5, kind=InTwoSteps).named > PAGES


def test_without_the_stop_a_clear_in_two_steps_loses_stores() -> None:
    assert follow(Unstopped, until=lambda follower, _: follower.lost, kind=InTwoSteps).lost


def test_without_the_flush_stores_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(machine: Machine) -> PausableMachine:
        monkeypatch.setattr(machine.cpu, "flush_tlb", lambda: None)
        return machine

    assert follow(without, until=lambda follower, _: follower.lost, pages=FEW).lost


@pytest.mark.parametrize("flushed", [True, False])
def test_a_translation_that_is_not_forgotten_hides_the_next_store(
    flushed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
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
