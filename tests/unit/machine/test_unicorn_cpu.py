"""The emulated CPU, with guests of a few instructions."""

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
    """Ports that remember what was written and answer with the number of the port."""

    def __init__(self) -> None:
        self.written: list[tuple[int, int, int]] = []

    def read(self, port: int, size: int) -> int:
        return port

    def write(self, port: int, size: int, value: int) -> None:
        self.written.append((port, size, value))


def made(source: str, *, record_writes: bool = False) -> tuple[UnicornCpu, GuestMemory, Recorder]:
    memory, ports = GuestMemory(), Recorder()
    prepare(memory, "words for the guest")
    code = assemble(source)
    memory.ram[IMAGE_BASE : IMAGE_BASE + len(code)] = np.frombuffer(code, dtype=np.uint8)
    cpu = UnicornCpu(memory, ports, record_writes=record_writes)
    cpu.start_at(IMAGE_BASE, stack=BOOT_STACK, argument=BOOT_INFO, tables=BOOT_PML4)
    return cpu, memory, ports


def kicked(cpu: UnicornCpu) -> Exit:
    """One run, kicked from another thread until it ends."""
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


def test_a_guest_finds_what_the_layout_promises() -> None:
    cpu, memory, ports = made("mov (%rdi), %eax; mov $0x80, %dx; out %eax, %dx; push %rax; hlt")
    assert cpu.run().kind is ExitKind.HALT
    assert ports.written == [(0x80, 4, BOOT_MAGIC)]
    assert cpu.registers().rsp == BOOT_STACK - 8
    assert memory.words(BOOT_STACK - 8, 1)[0] == BOOT_MAGIC


def test_halting_goes_on_behind_the_halt() -> None:
    cpu, _, ports = made("mov $1, %al; out %al, $0x10; hlt; mov $2, %al; out %al, $0x10; hlt")
    assert [cpu.run().kind for _ in range(2)] == [ExitKind.HALT] * 2
    assert ports.written == [(0x10, 1, 1), (0x10, 1, 2)]


def test_ports_of_each_width_answer() -> None:
    cpu, memory, _ = made(
        "in $0x21, %al; mov %al, 0x200000; mov $0x1234, %dx; in %dx, %ax; mov %ax, 0x200002;"
        "in %dx, %eax; mov %eax, 0x200004; hlt"
    )
    cpu.run()
    assert memory.ram[0x200000] == 0x21
    assert memory.ram[0x200002:0x200004].tobytes() == b"\x34\x12"
    assert memory.ram[0x200004:0x200008].tobytes() == b"\x34\x12\0\0"


def test_an_error_of_a_port_comes_out_of_run(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, _, ports = made("out %al, $0x10; hlt")

    def refuse(port: int, size: int, value: int) -> None:
        raise RuntimeError("no such thing")

    monkeypatch.setattr(ports, "write", refuse)
    with pytest.raises(RuntimeError, match="no such thing"):
        cpu.run()


def test_an_endless_loop_ends_by_a_kick_and_goes_on() -> None:
    cpu, memory, _ = made("cli; 1: incq 0x200000; jmp 1b")
    turns = []
    for _ in range(3):
        assert kicked(cpu).kind is ExitKind.KICKED
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
def test_no_instruction_is_made_twice_however_often_it_is_kicked(loop: str, record_writes: bool) -> None:
    # The counts in a register and in memory, both moved by every turn, stay equal only if each store is
    # made once: a run that ends with RIP before what it has done would do it again.
    cpu, memory, _ = made(f"mov ${VRAM_BASE}, %rdi; xor %ecx, %ecx; {loop}", record_writes=record_writes)
    for _ in range(100):
        assert kicked(cpu).kind is ExitKind.KICKED
        first, _, turns = (int(word) for word in memory.words(VRAM_BASE, 3))
        assert turns <= first <= turns + 1


@pytest.mark.parametrize(
    ("source", "said"),
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
def test_what_a_guest_does_wrong_is_a_fault_that_says_what(source: str, said: str) -> None:
    cpu, _, _ = made(source + "; hlt")
    stop = cpu.run()
    assert stop.kind is ExitKind.FAULT
    assert said in stop.detail


def test_a_page_fault_leaves_its_address() -> None:
    cpu, _, _ = made("mov $0xffff900000000123, %rdi; mov (%rdi), %rax; hlt")
    cpu.run()
    found = cpu.registers()
    assert found.cr2 == 0xFFFF_9000_0000_0123
    assert found.rip == IMAGE_BASE + 10  # the instruction that faulted


DIRTY = 0x40


def test_dirty_bits_are_set_again_once_the_translations_are_flushed() -> None:
    # The boot tables map video RAM by 2 MiB pages: the entry's dirty bit stands for all of one.
    cpu, memory, _ = made(f"mov ${VRAM_BASE}, %rdi; 1: incq (%rdi); hlt; jmp 1b")
    entry = memory.words(0x3000 + (VRAM_BASE >> 21) * 8, 1)
    cpu.run()
    assert entry[0] & DIRTY
    seen = []
    for flush in (False, True):
        entry[0] &= ~np.uint64(DIRTY)
        if flush:
            cpu.flush_tlb()
        cpu.run()
        seen.append(bool(entry[0] & DIRTY))
    assert seen == [False, True]  # without the flush the translation remembers that it is dirty


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
    cpu, _, _ = made(f"mov ${VRAM_BASE}, %rdi; {source}; movl $1, 0x200000; hlt", record_writes=True)
    cpu.run()
    assert cpu.written() == expected()
    assert cpu.written() == NO_PAGES


def test_stores_that_are_not_recorded_cannot_be_asked_for() -> None:
    cpu, _, _ = made("hlt")
    with pytest.raises(ValueError, match="record_writes"):
        cpu.written()


def test_closing_twice_is_harmless() -> None:
    cpu, _, _ = made("hlt")
    for _ in itertools.repeat(None, 2):
        cpu.close()
    assert cpu.run().kind is ExitKind.HALT
