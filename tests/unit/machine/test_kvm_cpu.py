"""KvmCpu on the real /dev/kvm: exits, ports, and how a kick stops it."""

from __future__ import annotations

import re
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pytest

from support.kvm_guest import KickingPorts, SilentPorts, TinyMachine, enter_user_mode
from vramtap.errors import KernelError, TargetGone, UsageError, VramtapError
from vramtap.linux import kvm_exits as exits
from vramtap.linux.kvm import Kvm, Vcpu
from vramtap.machine.cpu import Exit, ExitKind, Ports
from vramtap.machine.kvm_cpu import KICK_SIGNAL, KvmCpu
from vramtap.machine.layout import BOOT_INFO, BOOT_PDS, BOOT_PML4, BOOT_STACK, IMAGE_BASE, VRAM_BASE
from vramtap.machine.memory import GuestMemory
from vramtap.pages import PageRuns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

HALT = Exit(ExitKind.HALT)
KICKED = Exit(ExitKind.KICKED)
DIRTY = np.uint64(0x40)


class RecordingPorts:
    """Ports that record writes and return increasing numbers. One of them may fail."""

    def __init__(self, fail_at: int = -1) -> None:
        self.written: list[tuple[int, int, int]] = []
        self.fail_at = fail_at
        self.reads = 0

    def read(self, port: int, size: int) -> int:
        self._fail(port)
        self.reads += 1
        return self.reads

    def write(self, port: int, size: int, value: int) -> None:
        self._fail(port)
        self.written.append((port, size, value))

    def _fail(self, port: int) -> None:
        if port == self.fail_at:
            raise KernelError("use", f"port {port:#x}", 5)


@contextmanager
def machine(code: str, ports: Ports | None = None) -> Iterator[TinyMachine]:
    with TinyMachine(bytes.fromhex(code), ports=ports or RecordingPorts()) as tiny:
        yield tiny


def test_guest_starts_in_the_state_of_the_layout() -> None:
    # mov rax, cs; mov rbx, ds; mov rcx, ss; mov [rdi], rax; mov [rdi+8], rbx; mov [rdi+16], rcx; pushfq; hlt
    with machine("8cc8 8cdb 8cd1 488907 48895f08 48894f10 9c f4") as tiny:
        assert tiny.kvm.run() == HALT
        registers = tiny.kvm.registers()
        assert (registers.rip, registers.rsp) == (IMAGE_BASE + 19, BOOT_STACK - 8)
        assert (registers.cr2, registers.cr3) == (0, BOOT_PML4)
        assert [int(word) & 0xFFFF for word in tiny.memory.words(BOOT_INFO, 3)] == [8, 16, 16]
        assert int(tiny.memory.words(BOOT_STACK - 8, 1)[0]) & 0x200 == 0, "interrupts are off"


def test_segments_can_be_loaded_from_the_gdt() -> None:
    # mov eax, 16; mov ds, eax; mov ss, eax; push 8; lea rax, [rip+3]; push rax; retfq; hlt
    with machine("b810000000 8ed8 8ed0 6a08 488d0503000000 50 48cb f4") as tiny:
        assert tiny.kvm.run() == HALT


def test_port_accesses_carry_their_sizes() -> None:
    # mov eax, 0x12345678; mov dx, 0x1cf; out dx, al; out dx, ax; out dx, eax; in ax, dx; mov [rdi], ax; hlt
    ports = RecordingPorts()
    with machine("b878563412 66bacf01 ee 66ef ef 66ed 668907 f4", ports) as tiny:
        assert tiny.kvm.run() == HALT
        assert ports.written == [(0x1CF, 1, 0x78), (0x1CF, 2, 0x5678), (0x1CF, 4, 0x12345678)]
        assert int(tiny.memory.words(BOOT_INFO, 1)[0]) & 0xFFFF == 1


def test_string_io_calls_the_port_for_each_element() -> None:
    # mov rsi, rdi; mov ecx, 5; mov dx, 0xe9; rep outsb;
    # mov edi, 0x9000; mov ecx, 3; mov dx, 0x60; rep insb; hlt
    ports = RecordingPorts()
    with machine("4889fe b905000000 66bae900 f36e bf00900000 b903000000 66ba6000 f36c f4", ports) as tiny:
        tiny.memory.ram[BOOT_INFO : BOOT_INFO + 5] = np.frombuffer(b"hello", dtype=np.uint8)
        assert tiny.kvm.run() == HALT
        assert ports.written == [(0xE9, 1, byte) for byte in b"hello"]
        assert tiny.memory.ram[0x9000:0x9004].tolist() == [1, 2, 3, 0]


@pytest.mark.parametrize("code", ["b001 e6f4 f4", "e4f4 f4"], ids=["out", "in"])
def test_port_error_propagates_with_the_instruction_completed(code: str) -> None:
    ports = RecordingPorts(fail_at=0xF4)
    with machine(code, ports) as tiny:
        with pytest.raises(KernelError, match="port 0xf4"):
            tiny.kvm.run()
        length = len(bytes.fromhex(code)) - 1
        assert tiny.kvm.registers().rip == IMAGE_BASE + length
        assert tiny.kvm.run() == HALT


@pytest.mark.parametrize(
    ("code", "detail"),
    [
        ("0f0b", "triple fault"),  # ud2
        ("48b80000000001000000 c60001", "triple fault"),  # a page that no table maps
        ("b800000090 c60001", "access to guest-physical 0x90000000, where there is no memory"),
        ("b800000090 8b00", "access to guest-physical 0x90000000, where there is no memory"),
    ],
)
def test_fault_describes_why_the_guest_stopped(code: str, detail: str) -> None:
    with machine(code) as tiny:
        assert tiny.kvm.run() == Exit(ExitKind.FAULT, detail)
        tiny.kvm.registers()


@pytest.mark.parametrize(
    ("stop", "words"),
    [
        (exits.InternalError(1, ()), "cannot emulate .*suberror 1"),
        (exits.InternalError(77, ()), "suberror 77"),
        (exits.FailEntry(0x80000021), "reason 0x80000021"),
        (exits.Other(37), "reason 37"),
    ],
)
def test_kvm_failure_is_a_fault_with_its_number(
    stop: exits.VmExit, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with machine("f4") as tiny:
        monkeypatch.setattr(Vcpu, "run", lambda self: stop)
        fault = tiny.kvm.run()
    assert fault.kind is ExitKind.FAULT
    assert re.search(words, fault.detail)


@pytest.mark.parametrize("ring", [0, 3])
def test_kick_stops_an_endless_loop_which_can_continue(ring: int) -> None:
    with machine("ff07 ebfc") as tiny:  # 1: inc dword [rdi]; jmp 1b
        if ring == 3:
            enter_user_mode(tiny.memory, tiny.kvm)
        tiny.memory.words(BOOT_INFO, 1)[0] = 0
        counted = 0
        stops: list[Exit] = []
        for _ in range(20):
            stops.clear()
            thread = threading.Thread(target=lambda: stops.append(tiny.kvm.run()))
            thread.start()
            while int(tiny.memory.words(BOOT_INFO, 1)[0]) == counted:
                assert thread.is_alive()
            while thread.is_alive():
                tiny.kvm.kick()
            assert stops == [KICKED]
            counted = int(tiny.memory.words(BOOT_INFO, 1)[0])
            tiny.kvm.kick()  # without a run, a kick has no effect


def test_kicks_neither_lose_nor_repeat_port_accesses() -> None:
    # mov ecx, 3000; mov dx, 0x60;
    # 1: mov eax, ecx; out dx, eax; in eax, dx; add [rdi], rax; dec ecx; jnz 1b; hlt
    kick_given = threading.Event()

    class WaitingPorts(RecordingPorts):
        def write(self, port: int, size: int, value: int) -> None:
            super().write(port, size, value)
            if value == 1500:
                kick_given.clear()
                kick_given.wait(10)

    ports = WaitingPorts()
    with machine("b9b80b0000 66ba6000 89c8 ef ed 480107 ffc9 75f5 f4", ports) as tiny:
        tiny.memory.words(BOOT_INFO, 1)[0] = 0
        done = threading.Event()

        def kick() -> None:
            while not done.is_set():
                tiny.kvm.kick()
                kick_given.set()

        thread = threading.Thread(target=kick)
        thread.start()
        kicked = 0
        try:
            while (stop := tiny.kvm.run()) == KICKED:
                kicked += 1
        finally:
            done.set()
            thread.join()
        assert stop == HALT
        assert kicked > 0
        assert [value for _, _, value in ports.written] == list(range(3000, 0, -1))
        assert ports.reads == 3000
        assert int(tiny.memory.words(BOOT_INFO, 1)[0]) == 3000 * 3001 // 2


def test_port_may_kick_its_own_run() -> None:
    with machine("e610 e610 f4", KickingPorts(lambda: tiny.kvm.kick())) as tiny:
        assert tiny.kvm.run() == KICKED
        assert tiny.kvm.registers().rip == IMAGE_BASE + 2
        assert tiny.kvm.run() == KICKED
        assert tiny.kvm.run() == HALT


def test_kick_leaves_signal_mask_and_handlers_unchanged() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with machine("e610 ebfe", KickingPorts(lambda: tiny.kvm.kick())) as tiny:
        assert tiny.kvm.run() == KICKED
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
    assert KICK_SIGNAL not in signal.sigpending()
    assert signal.getsignal(KICK_SIGNAL) is signal.SIG_DFL


# 1: mov byte [rdi], 1; out 0x10, al; jmp 1b
STORE_AND_OUT = "c60701 e610 ebf9"


@contextmanager
def storing(ring: int) -> Iterator[tuple[TinyMachine, Callable[[], None], NDArray[np.uint64]]]:
    """Yield a guest that stores into the video RAM, a function that runs it to its next store, its entry."""
    with machine(STORE_AND_OUT, KickingPorts(lambda: tiny.kvm.kick())) as tiny:
        tiny.kvm.start_at(IMAGE_BASE, stack=BOOT_STACK, argument=VRAM_BASE, tables=BOOT_PML4)
        if ring == 3:
            enter_user_mode(tiny.memory, tiny.kvm)

        def store() -> None:
            assert tiny.kvm.run() == KICKED

        yield tiny, store, tiny.memory.words(BOOT_PDS + (VRAM_BASE >> 21) * 8, 1)


@pytest.mark.parametrize("ring", [0, 3])
def test_store_after_a_flush_sets_the_dirty_bit_again(ring: int) -> None:
    with storing(ring) as (tiny, store, entry):
        for _ in range(3):
            store()
            assert int(entry[0] & DIRTY)
            entry[0] &= ~DIRTY
            tiny.kvm.flush_tlb()
            assert not int(entry[0] & DIRTY)


@pytest.mark.parametrize("ring", [0, 3])
def test_changed_translation_takes_effect_after_a_flush(ring: int) -> None:
    with storing(ring) as (tiny, store, entry):
        store()
        entry[0] += np.uint64(2 << 20)
        tiny.kvm.flush_tlb()
        assert tiny.memory.vram[2 << 20] == 0
        store()
        assert tiny.memory.vram[2 << 20] == 1


def test_flush_loses_nothing_from_the_log() -> None:
    with storing(3) as (tiny, store, _):
        tiny.kvm.vram_log.start()
        store()
        tiny.kvm.flush_tlb()
        assert tiny.kvm.vram_log.fetch().pages == PageRuns([(0, 1)])
        assert tiny.kvm.vram_log.fetch().pages == PageRuns()
        tiny.kvm.flush_tlb()
        store()
        assert tiny.kvm.vram_log.fetch().pages == PageRuns([(0, 1)])


# Errors and closing


def test_unknown_form_of_log_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="one of bitmap, manual, ring"):
        KvmCpu(GuestMemory(), SilentPorts(), log="syslog")


@pytest.mark.parametrize(("form", "remedy"), [("ring", "use log=bitmap"), ("bitmap", "use cpu=unicorn")])
def test_missing_capability_is_named_with_a_remedy(
    form: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Kvm, "check_extension", lambda self, number: 0)
    with pytest.raises(VramtapError, match=f"this kernel has no KVM_CAP_.* \\({remedy}\\)"):
        KvmCpu(GuestMemory(), SilentPorts(), log=form)


def test_run_after_close_raises_target_gone() -> None:
    with machine("f4") as tiny:
        cpu = tiny.kvm
        cpu.close()
        cpu.close()
        cpu.kick()
        with pytest.raises(TargetGone, match="closed"):
            cpu.run()
    assert KICK_SIGNAL not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
