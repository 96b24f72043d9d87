"""UnicornCpu, with guests of a few instructions."""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest

from support.machine_code import assemble
from vramtap.machine.boot import prepare
from vramtap.machine.cpu import Exit, ExitKind
from vramtap.machine.layout import BOOT_INFO, BOOT_MAGIC, BOOT_PML4, BOOT_STACK, IMAGE_BASE, VRAM_BASE
from vramtap.machine.memory import GuestMemory
from vramtap.machine.unicorn_cpu import UnicornCpu
from vramtap.pages import NO_PAGES, PageRuns

if TYPE_CHECKING:
    from collections.abc import Callable


class Recorder:
    """Ports that record writes. A read returns the number of the port."""

    def __init__(self) -> None:
        self.written: list[tuple[int, int, int]] = []

    def read(self, port: int, size: int) -> int:
        return port

    def write(self, port: int, size: int, value: int) -> None:
        self.written.append((port, size, value))


def make(source: str, *, record_writes: bool = False) -> tuple[UnicornCpu, GuestMemory, Recorder]:
    memory, ports = GuestMemory(), Recorder()
    prepare(memory, "command line")
    code = assemble(source)
    memory.ram[IMAGE_BASE : IMAGE_BASE + len(code)] = np.frombuffer(code, dtype=np.uint8)
    cpu = UnicornCpu(memory, ports, record_writes=record_writes)
    cpu.start_at(IMAGE_BASE, stack=BOOT_STACK, argument=BOOT_INFO, tables=BOOT_PML4)
    return cpu, memory, ports


def run_kicked(cpu: UnicornCpu) -> Exit:
    """Run once, kicked by another thread until the run ends."""
    done = threading.Event()

    def kick() -> None:
        while not done.wait(0.001):
            cpu.kick()

    kicker = threading.Thread(target=kick)
    kicker.start()
    try:
        return cpu.run()
    finally:
        done.set()
        kicker.join()


def test_guest_starts_in_the_state_of_the_layout() -> None:
    cpu, memory, ports = make("mov (%rdi), %eax; mov $0x80, %dx; out %eax, %dx; push %rax; hlt")
    assert cpu.run().kind is ExitKind.HALT
    assert ports.written == [(0x80, 4, BOOT_MAGIC)]
    assert cpu.registers().rsp == BOOT_STACK - 8
    assert memory.words(BOOT_STACK - 8, 1)[0] == BOOT_MAGIC


def test_next_run_continues_after_hlt() -> None:
    cpu, _, ports = make("mov $1, %al; out %al, $0x10; hlt; mov $2, %al; out %al, $0x10; hlt")
    assert [cpu.run().kind for _ in range(2)] == [ExitKind.HALT] * 2
    assert ports.written == [(0x10, 1, 1), (0x10, 1, 2)]


def test_port_reads_of_each_width() -> None:
    cpu, memory, _ = make(
        "in $0x21, %al; mov %al, 0x200000; mov $0x1234, %dx; in %dx, %ax; mov %ax, 0x200002;"
        "in %dx, %eax; mov %eax, 0x200004; hlt"
    )
    cpu.run()
    assert memory.ram[0x200000] == 0x21
    assert memory.ram[0x200002:0x200004].tobytes() == b"\x34\x12"
    assert memory.ram[0x200004:0x200008].tobytes() == b"\x34\x12\0\0"


def test_port_error_propagates_from_run(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, _, ports = make("out %al, $0x10; hlt")

    def refuse(port: int, size: int, value: int) -> None:
        raise RuntimeError("no such thing")

    monkeypatch.setattr(ports, "write", refuse)
    with pytest.raises(RuntimeError, match="no such thing"):
        cpu.run()


def test_kick_stops_an_endless_loop_which_can_continue() -> None:
    cpu, memory, _ = make("cli; 1: incq 0x200000; jmp 1b")
    turns = []
    for _ in range(3):
        assert run_kicked(cpu).kind is ExitKind.KICKED
        turns.append(int(memory.words(0x200000, 1)[0]))
    assert turns[0] < turns[1] < turns[2]


LOOPS = [
    "1: incq (%rdi); inc %rcx; mov %rcx, 16(%rdi); jmp 1b",
    "1: incq (%rdi); inc %rcx; mov %rcx, 16(%rdi); jmp 2f; .balign 64; 2: jmp 3f; .balign 64; 3: jmp 1b",
    "1: lock incq (%rdi); inc %rcx; mov %rcx, 16(%rdi); in $0x10, %al; jmp 1b",
    "1: incq (%rdi); call 2f; jmp 1b; 2: inc %rcx; mov %rcx, 16(%rdi); ret",
]


@pytest.mark.parametrize("record_writes", [False, True])
@pytest.mark.parametrize("loop", LOOPS)
def test_kicks_repeat_no_instruction(loop: str, record_writes: bool) -> None:
    # Every turn increments a counter in a register and one in memory. They stay equal only if each store is
    # made once: a run that ended with RIP before a finished instruction would repeat it.
    cpu, memory, _ = make(f"mov ${VRAM_BASE}, %rdi; xor %ecx, %ecx; {loop}", record_writes=record_writes)
    for _ in range(100):
        assert run_kicked(cpu).kind is ExitKind.KICKED
        first, _, turns = (int(word) for word in memory.words(VRAM_BASE, 3))
        assert turns <= first <= turns + 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("mov $0xffff900000000123, %rdi; mov (%rdi), %rax", "page fault"),
        ("mov $0xffff900000000123, %rdi; mov %rax, (%rdi)", "page fault"),
        ("mov $0xffff900000000123, %rdi; jmp *%rdi", "page fault"),
        ("xor %ecx, %ecx; div %rcx", "divide error"),
        ("movabs $0x8000000000000000, %rdi; mov (%rdi), %rax", "general protection fault"),
        ("int3", "breakpoint"),
        ("int $0x80", "exception 128"),
        ("ud2", "invalid opcode"),
        ("mov $0x40000000, %rdi; mov (%rdi), %rax", "guest-physical 0x40000000, where there is no memory"),
        ("mov $0x40000000, %rdi; mov %rax, (%rdi)", "guest-physical 0x40000000, where there is no memory"),
        ("mov $0x40000000, %rdi; jmp *%rdi", "guest-physical 0x40000000, where there is no memory"),
    ],
)
def test_guest_exception_is_a_fault_with_its_name(source: str, message: str) -> None:
    cpu, _, _ = make(source + "; hlt")
    stop = cpu.run()
    assert stop.kind is ExitKind.FAULT
    assert message in stop.detail


def test_page_fault_sets_cr2_and_rip() -> None:
    cpu, _, _ = make("mov $0xffff900000000123, %rdi; mov (%rdi), %rax; hlt")
    cpu.run()
    found = cpu.registers()
    assert found.cr2 == 0xFFFF_9000_0000_0123
    assert found.rip == IMAGE_BASE + 10  # the faulting instruction


DIRTY = 0x40


def test_store_sets_dirty_bit_again_only_after_a_tlb_flush() -> None:
    # The boot tables map video RAM by 2 MiB pages, so one dirty bit covers 2 MiB.
    cpu, memory, _ = make(f"mov ${VRAM_BASE}, %rdi; 1: incq (%rdi); hlt; jmp 1b")
    entry = memory.words(0x3000 + (VRAM_BASE >> 21) * 8, 1)
    cpu.run()
    assert entry[0] & DIRTY
    dirty = []
    for flush in (False, True):
        entry[0] &= ~np.uint64(DIRTY)
        if flush:
            cpu.flush_tlb()
        cpu.run()
        dirty.append(bool(entry[0] & DIRTY))
    assert dirty == [False, True]  # without a flush the TLB remembers the bit as set


STORES: list[tuple[str, Callable[[], PageRuns]]] = [
    ("movb $1, (%rdi)", lambda: PageRuns([(0, 1)])),
    ("movq $1, 0xffc(%rdi)", lambda: PageRuns([(0, 2)])),
    ("movq $1, 0xff8(%rdi)", lambda: PageRuns([(0, 1)])),
    ("add $0x3000, %rdi; mov $1024, %ecx; xor %eax, %eax; rep stosq", lambda: PageRuns([(3, 5)])),
    ("lock incl 0x5000(%rdi)", lambda: PageRuns([(5, 6)])),
    ("mov 0x7000(%rdi), %rax", lambda: NO_PAGES),
]


@pytest.mark.parametrize(("source", "expected"), STORES, ids=[source for source, _ in STORES])
def test_stores_are_recorded_by_page(source: str, expected: Callable[[], PageRuns]) -> None:
    cpu, _, _ = make(f"mov ${VRAM_BASE}, %rdi; {source}; movl $1, 0x200000; hlt", record_writes=True)
    cpu.run()
    assert cpu.written() == expected()
    assert cpu.written() == NO_PAGES


def test_written_without_recording_raises() -> None:
    cpu, _, _ = make("hlt")
    with pytest.raises(ValueError, match="record_writes"):
        cpu.written()


def test_closing_twice_is_harmless() -> None:
    cpu, _, _ = make("hlt")
    for _ in itertools.repeat(None, 2):
        cpu.close()
    assert cpu.run().kind is ExitKind.HALT
