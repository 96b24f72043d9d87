"""vramtap.linux.kvm on the real KVM, with guests of a few bytes of real-mode code."""

from __future__ import annotations

import errno
import mmap
import signal
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import pytest

from vramtap.errors import KernelError
from vramtap.linux import kvm_abi as abi
from vramtap.linux import kvm_exits as exits
from vramtap.linux.kvm import Kvm, Vcpu, Vm
from vramtap.pages import PAGE_SIZE, PageRuns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

PAGES: Final = 200
"""Not a multiple of 64, to test the end of a bitmap."""
CODE: Final = 0x1000


@dataclass
class Guest:
    """A virtual machine with one memory slot and one vCPU in real mode."""

    vm: Vm
    vcpu: Vcpu
    memory: NDArray[np.uint8]

    def run_to_halt(self) -> None:
        stop = self.vcpu.run()
        assert stop == exits.Halt()

    def log_pages(self, *, on: bool) -> None:
        flags = abi.KVM_MEM_LOG_DIRTY_PAGES if on else 0
        self.vm.set_memory(0, 0, self.memory.ctypes.data, PAGES * PAGE_SIZE, flags)

    def dirty(self) -> PageRuns:
        return PageRuns.from_bitmap(self.vm.dirty_log(0).tobytes(), PAGES)


@contextmanager
def guest(code: str, *, manual: bool = False, ring_entries: int = 0) -> Iterator[Guest]:
    memory = np.frombuffer(mmap.mmap(-1, PAGES * PAGE_SIZE), dtype=np.uint8)
    machine_code = bytes.fromhex(code)
    memory[CODE : CODE + len(machine_code)] = np.frombuffer(machine_code, dtype=np.uint8)
    with Kvm.open() as kvm, kvm.create_vm() as vm:
        if manual:
            vm.enable_manual_protect()
        if ring_entries:
            vm.enable_dirty_rings(ring_entries)
        vm.set_tss_address(0x7FFF_0000)
        vm.set_memory(0, 0, memory.ctypes.data, PAGES * PAGE_SIZE)
        with vm.create_vcpu() as vcpu:
            vcpu.set_cpuid(kvm.supported_cpuid())
            sregs = vcpu.sregs()
            sregs.cs.base, sregs.cs.selector = 0, 0
            vcpu.set_sregs(sregs)
            vcpu.set_regs(abi.KvmRegs(rip=CODE, rflags=2))
            yield Guest(vm, vcpu, memory)


def test_device_reports_version_and_capabilities() -> None:
    with Kvm.open() as kvm:
        assert kvm.api_version() == 12
        assert kvm.check_extension(abi.KVM_CAP_IMMEDIATE_EXIT) == 1
        assert kvm.check_extension(0xFFFF) == 0
        cpuid = kvm.supported_cpuid()
        assert 0 < cpuid.nent <= abi.CPUID_ENTRIES
        assert 1 in {entry.function for entry in cpuid.entries[: cpuid.nent]}


def test_port_accesses_and_hlt_are_exits() -> None:
    # mov al, 5; out 0x10, al; in ax, 0x11; hlt
    with guest("b005 e610 e511 f4") as it:
        out = it.vcpu.run()
        assert isinstance(out, exits.Io)
        assert (out.port, out.size, out.count, out.outward, bytes(out.data)) == (0x10, 1, 1, True, b"\x05")
        port_read = it.vcpu.run()
        assert isinstance(port_read, exits.Io)
        assert (port_read.port, port_read.size, port_read.count, port_read.outward) == (0x11, 2, 1, False)
        port_read.data[:] = b"\x34\x12"
        it.run_to_halt()
        regs = it.vcpu.regs()
        assert (regs.rax, regs.rip) == (0x1234, CODE + 7)


def test_rep_port_accesses_carry_all_data() -> None:
    # mov dx, 0x1ce; mov cx, 6; mov si, 0x2000; rep outsw; mov cx, 5; mov di, 0x3000; rep insb; hlt
    with guest("bace01 b90600 be0020 f36f b90500 bf0030 f36c f4") as it:
        it.memory[0x2000:0x200C] = np.arange(12)
        sent, answered = b"", 0
        while (stop := it.vcpu.run()) != exits.Halt():
            assert isinstance(stop, exits.Io)
            assert len(stop.data) == stop.size * stop.count
            if stop.outward:
                assert stop.size == 2
                sent += bytes(stop.data)
            else:
                stop.data[:] = bytes(range(answered, answered + stop.count))
                answered += stop.count
        assert sent == bytes(range(12))
        assert it.memory[0x3000:0x3006].tolist() == [0, 1, 2, 3, 4, 0]


def test_access_outside_slots_is_mmio_exit() -> None:
    # mov ax, 0xf000; mov ds, ax; mov [0x10], bl; hlt: past the slot's 800 KiB
    with guest("b800f0 8ed8 881e1000 f4") as it:
        assert it.vcpu.run() == exits.Mmio(0xF0010, 1, is_write=True)


def test_registers_are_read_as_set() -> None:
    with guest("f4") as it:
        names = [field[0] for field in abi.KvmRegs._fields_ if field[0] not in ("rip", "rflags")]
        regs = abi.KvmRegs(rip=CODE, rflags=2, **{name: 0x1111 * at for at, name in enumerate(names)})
        it.vcpu.set_regs(regs)
        assert bytes(it.vcpu.regs()) == bytes(regs)
        sregs = it.vcpu.sregs()
        sregs.cs.l = 1  # 64-bit code without long mode
        with pytest.raises(KernelError) as caught:
            it.vcpu.set_sregs(sregs)
        assert caught.value.errno == errno.EINVAL


def test_immediate_exit_completes_last_exit() -> None:
    with guest("e511 f4") as it:  # in ax, 0x11; hlt
        port_read = it.vcpu.run()
        assert isinstance(port_read, exits.Io)
        port_read.data[:] = b"\x34\x12"
        it.vcpu.immediate_exit = True
        assert it.vcpu.run() == exits.Interrupted()
        regs = it.vcpu.regs()
        assert (regs.rax & 0xFFFF, regs.rip) == (0x1234, CODE + 2)
        it.vcpu.immediate_exit = False
        assert not it.vcpu.immediate_exit
        it.run_to_halt()


def test_signal_unblocked_during_run_ends_run_and_stays_pending() -> None:
    number = signal.SIGRTMAX - 7
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        with guest("ebfe") as it:  # 1: jmp 1b
            it.vcpu.set_signal_mask(before - {number})
            signal.pthread_kill(threading.get_ident(), number)
            assert it.vcpu.run() == exits.Interrupted()
            assert number in signal.sigpending()
            assert signal.getsignal(number) is signal.SIG_DFL
            assert signal.sigtimedwait({number}, 0) is not None
            # The same with a signal that arrives while the guest runs.
            thread = threading.get_ident()
            timer = threading.Timer(0.02, signal.pthread_kill, (thread, number))
            timer.start()
            assert it.vcpu.run() == exits.Interrupted()
            timer.join()
            assert signal.sigtimedwait({number}, 0) is not None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# mov byte [0x5000], 1; mov ax, 0x9000; mov ds, ax; mov byte [0], 1; mov byte [0x7fff], 1; hlt; restart
STORES: Final = "c606005001 b80090 8ed8 c606000001 c606ff7f01 31c0 8ed8 f4 ebe5"
STORED: Final = PageRuns([(0x5, 0x6), (0x90, 0x91), (0x97, 0x98)])


def test_dirty_log_is_read_and_cleared_by_one_call() -> None:
    with guest(STORES) as it:
        with pytest.raises(KernelError) as caught:
            it.vm.dirty_log(0)
        assert caught.value.errno == errno.ENOENT
        it.log_pages(on=True)
        assert it.dirty() == PageRuns()
        for _ in range(2):
            it.run_to_halt()
            assert it.dirty() == STORED
            assert it.dirty() == PageRuns()
        it.log_pages(on=False)
        it.run_to_halt()
        with pytest.raises(KernelError):
            it.vm.dirty_log(0)


def test_manual_protect_clears_only_given_pages() -> None:
    with guest(STORES, manual=True) as it:
        it.log_pages(on=True)
        assert it.dirty() == PageRuns()
        it.run_to_halt()
        assert it.dirty() == STORED
        assert it.dirty() == STORED
        # Clears page 0x90, in the granule that begins at 0x80; page 0x97 stays dirty.
        it.vm.clear_dirty_log(0, 0x80, np.packbits(np.arange(64) == 0x10, bitorder="little"))
        assert it.dirty() == PageRuns([(0x5, 0x6), (0x97, 0x98)])
        # Clears up to the end of the slot, which is inside a granule.
        it.vm.clear_dirty_log(0, 0, np.full(32, 0xFF, dtype=np.uint8))
        assert it.dirty() == PageRuns()
        it.run_to_halt()
        assert it.dirty() == STORED


def test_ring_reports_written_pages_after_each_reset() -> None:
    with guest(STORES, ring_entries=1024) as it:
        it.log_pages(on=True)
        with pytest.raises(KernelError) as caught:
            it.vm.dirty_log(0)
        assert caught.value.errno == errno.ENXIO
        ring = it.vcpu.ring
        assert ring is not None
        assert not ring.waiting
        for _ in range(3):
            it.run_to_halt()
            assert ring.waiting
            reaped = ring.reap()
            assert not reaped.overflow
            assert PageRuns.from_pages(reaped.pages) == STORED
            assert set(reaped.slots.tolist()) == {0}
            assert not ring.waiting
            it.vm.reset_dirty_rings()


def test_full_ring_stops_guest_until_reset() -> None:
    # mov cx, 3000; 1: mov bx, cx; and bx, 0x7000; inc byte [bx + 0x2000]; loop 1b; hlt
    with guest("b9b80b 89cb 81e30070 fe870020 e2f4 f4", ring_entries=1024) as it:
        it.log_pages(on=True)
        ring = it.vcpu.ring
        assert ring is not None
        pages: set[int] = set()
        while True:
            stop = it.vcpu.run()
            if not ring.waiting and stop == exits.DirtyRingFull():
                ring.skip()
            pages |= set(ring.reap().pages.tolist())
            it.vm.reset_dirty_rings()
            if stop == exits.Halt():
                break
            assert stop == exits.DirtyRingFull()
        assert pages == {2}
        # KVM made each of the 3,000 stores once.
        assert int(it.memory[0x2000]) == 3000 % 256


@pytest.mark.parametrize("entries", [1, 100, 1 << 24])
def test_invalid_ring_size_is_refused(entries: int) -> None:
    with Kvm.open() as kvm, kvm.create_vm() as vm, pytest.raises(KernelError) as caught:
        vm.enable_dirty_rings(entries)
    assert caught.value.errno in (errno.EINVAL, errno.E2BIG)


def test_overlapping_slots_are_refused() -> None:
    with guest("f4") as it, pytest.raises(KernelError) as caught:
        it.vm.set_memory(1, PAGE_SIZE, it.memory.ctypes.data, PAGE_SIZE)
    assert caught.value.errno == errno.EEXIST
