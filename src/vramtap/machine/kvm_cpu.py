"""The CPU by KVM, over the machine's memory in place, and KVM's log of the video RAM.

Stopping a vCPU, and losing no kick:

Facts. A signal makes KVM_RUN return, but one that arrives just before the call is gone when the call begins.
A blocked signal stays pending. KVM_SET_SIGNAL_MASK gives a vCPU the mask it has inside KVM_RUN: a signal
that is blocked outside and let through inside makes KVM_RUN return at once if it is pending, and is never
delivered: the old mask is back before the thread is (kernel: kvm_sigset_activate, virt/kvm/kvm_main.c; a
signal in `real_blocked` neither runs a handler nor kills). It stays pending until it is taken.
`immediate_exit` does the same for a run that has not begun, without a signal. An `in` or `out` is only
complete when KVM_RUN has been entered again.

Consequences. With the signal blocked in the vCPU's thread there is no moment at which a kick is lost, no
handler is needed, and nobody else in the process is disturbed. But the signal must be taken after the run,
or the next run ends at once, and must never be sent to a thread that does not block it, where it would end
the process.

Decision. A run blocks the signal, then names its thread; a kick looks for that name, sets `immediate_exit`
and sends the signal, once a run; at its end a run withdraws the name, then takes the signal and puts the
mask back. Name, flag and signal change under one lock, so no signal can arrive after it was looked for. A
run that was kicked ends by KVM_RUN's EINTR, and so with all port accesses complete.
"""

from __future__ import annotations

import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from vramtap.errors import Refused, TargetGone, UsageError, VramtapError
from vramtap.linux import kvm_abi as abi
from vramtap.linux import kvm_exits as exits
from vramtap.linux.kvm import CLEAR_GRANULE_PAGES, Kvm, Vcpu, Vm
from vramtap.machine.cpu import Exit, ExitKind, Ports, Registers
from vramtap.machine.layout import CODE_SELECTOR, DATA_SELECTOR, GDT, RAM_BYTES, VRAM_BASE, VRAM_BYTES
from vramtap.machine.memory import GuestMemory
from vramtap.pages import NO_PAGES, PAGE_SIZE, PageRuns

KICK_SIGNAL: Final = signal.SIGRTMAX - 5
"""Any real-time signal that the C library keeps for nothing; only ever sent to a thread inside `run`."""
RING_ENTRIES: Final = 65536
"""Of the dirty ring, 1 MiB: the most that KVM takes (KVM_DIRTY_RING_MAX_ENTRIES). Where the processor logs,
the video RAM's 4,096 pages appear once each between two resets; where KVM emulates, each store does."""

_RAM_SLOT, _VRAM_SLOT, _PASSING_SLOT = 0, 1, 2
_PASSING_ADDRESS: Final = 0x7FFE_0000
_TSS_ADDRESS: Final = 0x7FFF_0000
"""Between RAM and video RAM, where no guest has business."""
_VRAM_PAGES: Final = VRAM_BYTES // PAGE_SIZE

# Intel SDM volume 3, 2.5 and 2.2.1.
_CR0_BOOT: Final = 0x8001_0033
"""PG, WP, NE, ET, MP, PE."""
_CR4_BOOT: Final = 0x2A0
"""OSFXSR, PGE, PAE."""
_CR4_PGE: Final = 1 << 7
_EFER_BOOT: Final = 0x501
"""LMA, LME, SCE."""
_RFLAGS_BOOT: Final = 0x2
"""Bit 1 is always set."""
# Intel SDM volume 3, 3.4.5.1 and 3.5.
_TYPE_CODE, _TYPE_DATA, _TYPE_TASK = 0xB, 0x3, 0xB
_GDT_LIMIT: Final = 3 * 8 - 1
_TASK_LIMIT: Final = 103

_TWO_DIMENSIONAL: Final = ("/sys/module/kvm_intel/parameters/ept", "/sys/module/kvm_amd/parameters/npt")
_INTERNAL: Final = {1: "an instruction that KVM cannot emulate", 4: "an exit that KVM does not expect"}
"""By suberror (linux/kvm.h: KVM_INTERNAL_ERROR_*)."""

_CAPABILITY: Final = {
    "bitmap": "KVM_CAP_USER_MEMORY",
    "manual": "KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2",
    "ring": "KVM_CAP_DIRTY_LOG_RING",
}
"""What KVM needs for each form of its log."""
LOG_FORMS: Final = tuple(_CAPABILITY)
"""The first is there wherever KVM is."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What KVM's log said.

    Args:
        pages: Written, relative to the video RAM.
        overflow: The log was full: pages may be missing.
    """

    pages: PageRuns
    overflow: bool = False


class KvmCpu:
    """One vCPU of a virtual machine of its own.

    Args:
        memory: Becomes the guest's memory in place.
        ports: Asked on the thread that runs the CPU.
        log: How KVM logs the video RAM: `bitmap` (read and cleared by one call), `manual` (cleared by a
            second one) or `ring`.
        ring_entries: Of the dirty ring; a power of two.

    Raises:
        UsageError: no such form of log.
        NotFound: there is no KVM here.
        Refused: this user may not use it.
        VramtapError: KVM lacks something, the form of log included.
    """

    name: Literal["unicorn", "kvm"] = "kvm"

    def __init__(
        self, memory: GuestMemory, ports: Ports, *, log: str = "bitmap", ring_entries: int = RING_ENTRIES
    ) -> None:
        if log not in _CAPABILITY:
            raise UsageError("log", log, "no such form of KVM's log", f"one of {', '.join(_CAPABILITY)}")
        self.log: Final = log
        self._memory = memory
        self._ports = ports
        self._lock = threading.Lock()
        self._thread: int | None = None
        self._kicked = False
        self._outside: set[int] | None = None
        self._log_lock = threading.Lock()
        self._logging = False
        self._closed = False
        self._harvest: NDArray[np.bool_] = np.zeros(_VRAM_PAGES, dtype=np.bool_)
        self._overflow = False
        self._shadowed = not any(_says_yes(Path(path)) for path in _TWO_DIMENSIONAL)
        with Kvm.open() as kvm:
            _require(kvm, log)
            self._vm = kvm.create_vm()
            try:
                self._vcpu = self._furnish(kvm, ring_entries)
            except BaseException:
                self._vm.close()
                raise

    def _furnish(self, kvm: Kvm, ring_entries: int) -> Vcpu:
        vm: Vm = self._vm
        if self.log == "manual":
            vm.enable_manual_protect()
        elif self.log == "ring":
            vm.enable_dirty_rings(ring_entries)
        vm.set_tss_address(_TSS_ADDRESS)
        vm.set_memory(_RAM_SLOT, 0, self._memory.ram.ctypes.data, RAM_BYTES)
        self._set_vram_flags(0)
        vcpu = vm.create_vcpu()
        try:
            vcpu.set_cpuid(kvm.supported_cpuid())
        except BaseException:
            vcpu.close()
            raise
        return vcpu

    def start_at(self, entry: int, *, stack: int, argument: int, tables: int) -> None:
        """Put the CPU into 64-bit mode at an entry point; see `Cpu.start_at`."""
        sregs = self._vcpu.sregs()
        sregs.cs = _flat(CODE_SELECTOR, _TYPE_CODE, long=True)
        for name in ("ds", "es", "fs", "gs", "ss"):
            setattr(sregs, name, _flat(DATA_SELECTOR, _TYPE_DATA, long=False))
        # Processors demand a task segment in 64-bit mode, be it never used; of the rest there is none.
        sregs.tr = abi.KvmSegment(limit=_TASK_LIMIT, type=_TYPE_TASK, present=1)
        sregs.ldt = abi.KvmSegment(unusable=1)
        sregs.gdt = abi.KvmDtable(base=GDT, limit=_GDT_LIMIT)
        sregs.idt = abi.KvmDtable()
        sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer = _CR0_BOOT, tables, _CR4_BOOT, _EFER_BOOT
        self._vcpu.set_sregs(sregs)
        self._vcpu.set_regs(abi.KvmRegs(rip=entry, rsp=stack, rdi=argument, rflags=_RFLAGS_BOOT))

    def run(self) -> Exit:
        """Run the guest until something happens; see `Cpu.run`.

        Raises:
            KernelError: KVM will not run it.
            TargetGone: closed.
        """
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {KICK_SIGNAL})
        try:
            with self._lock:
                self._check_open()
                if before != self._outside:
                    self._vcpu.set_signal_mask(before - {KICK_SIGNAL})
                    self._outside = {int(number) for number in before}
                self._thread = threading.get_ident()
            try:
                return self._run_on()
            finally:
                with self._lock:
                    self._thread = None
                    self._vcpu.immediate_exit = False
                    if self._kicked:
                        signal.sigtimedwait({KICK_SIGNAL}, 0)
                        self._kicked = False
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def kick(self) -> None:
        """Make `run` return soon; see `Cpu.kick`. Lost only while no run is under way."""
        with self._lock:
            if self._thread is not None and not self._kicked:
                self._vcpu.immediate_exit = True
                signal.pthread_kill(self._thread, KICK_SIGNAL)
                self._kicked = True

    def registers(self) -> Registers:
        """As they are now.

        After a triple fault they are the guest's on Intel's processors; AMD's are reset by it.
        """
        regs, sregs = self._vcpu.regs(), self._vcpu.sregs()
        return Registers(regs.rip, regs.rsp, sregs.cr2, sregs.cr3)

    def flush_tlb(self) -> None:
        """Forget every translation; see `Cpu.flush_tlb`.

        Facts: setting CR4 with PGE changed makes KVM build the vCPU's paging anew and flush what the
        processor has cached, as a guest's own change of PGE would (kernel: __set_sregs, arch/x86/kvm/x86.c).
        With two-dimensional paging that is all there is. Without it KVM runs the guest on shadows of its
        tables, follows what the guest writes there, and knows nothing of what this process writes; a shadow
        outlives the flush, and lets stores through without setting the dirty bit that was cleared (measured).
        Deleting a memory slot, any one, drops all shadows (kernel: kvm_arch_flush_shadow_memslot).

        Decision: PGE off and on; and where no two-dimensional paging is known of, a slot of one page comes
        and goes while the guest stands still. Nothing is lost from the log by either.
        """
        sregs = self._vcpu.sregs()
        sregs.cr4 ^= _CR4_PGE
        self._vcpu.set_sregs(sregs)
        sregs.cr4 ^= _CR4_PGE
        self._vcpu.set_sregs(sregs)
        if self._shadowed:
            host_address = self._memory.ram.ctypes.data
            for size_bytes in (PAGE_SIZE, 0):
                self._vm.set_memory(_PASSING_SLOT, _PASSING_ADDRESS, host_address, size_bytes)

    def close(self) -> None:
        """Give the vCPU and the machine back to the kernel; harmless twice."""
        with self._log_lock:
            self._closed = True
            self._vcpu.close()
            self._vm.close()

    # The log: from any thread, but where it says otherwise

    def start_log(self) -> None:
        """Begin to log the video RAM. With a ring the CPU is stopped.

        Raises:
            Refused: somebody else reads this log: what one reads, the other does not see.
            TargetGone: closed.
        """
        with self._log_lock:
            self._check_open()
            if self._logging:
                raise Refused("kvmlog", "machine", "another tracker reads its log", "use one at a time")
            self._set_vram_flags(abi.KVM_MEM_LOG_DIRTY_PAGES)
            self._logging = True
            if self.log == "ring":
                # Entries of an earlier log.
                self._reap()
                self._take_harvest()

    def stop_log(self) -> None:
        """End it: the guest's stores are no longer trapped. Harmless twice, and once closed."""
        with self._log_lock:
            if self._logging and not self._closed:
                self._set_vram_flags(0)
            self._logging = False

    def fetch_log(self, first: int, last: int) -> Fetched:
        """Read and clear the log. With a ring the CPU is stopped.

        Args:
            first: First page of the video RAM that is asked about.
            last: Page past the last.

        Returns:
            All pages written in that range, and maybe others, which are cleared as well.

        Raises:
            TargetGone: closed.
            KernelError: KVM refused.
        """
        with self._log_lock:
            self._check_open()
            if self.log == "ring":
                self._reap()
                return self._take_harvest()
            written = np.unpackbits(self._vm.dirty_log(_VRAM_SLOT), bitorder="little").astype(np.bool_)
            if self.log == "manual":
                written[:first] = written[last:] = False
                self._clear(written)
            return Fetched(PageRuns.from_mask(written[:_VRAM_PAGES]))

    def log_waits(self) -> bool | None:
        """Whether the log has something to tell; None where it cannot be asked without clearing it.

        Raises:
            TargetGone: closed.
            KernelError: KVM refused.
        """
        with self._log_lock:
            self._check_open()
            if self.log == "bitmap":
                return None
            if self.log == "manual":
                return bool(self._vm.dirty_log(_VRAM_SLOT).any())
            return self._overflow or self._ring_waits() or bool(self._harvest.any())

    def _clear(self, written: NDArray[np.bool_]) -> None:
        """Clear these pages and no others; one that was written again since is read after."""
        pages = np.flatnonzero(written)
        if len(pages):
            start = int(pages[0]) // CLEAR_GRANULE_PAGES * CLEAR_GRANULE_PAGES
            end = -(-(int(pages[-1]) + 1) // CLEAR_GRANULE_PAGES) * CLEAR_GRANULE_PAGES
            self._vm.clear_dirty_log(_VRAM_SLOT, start, np.packbits(written[start:end], bitorder="little"))

    def _ring_waits(self) -> bool:
        return self._vcpu.ring is not None and self._vcpu.ring.waiting

    def _empty_ring(self) -> None:
        """Make room in the ring for the guest to go on, whoever wants to know what was in it."""
        with self._log_lock:
            if self._vcpu.ring is not None and not self._vcpu.ring.waiting:
                self._vcpu.ring.skip()
                self._vm.reset_dirty_rings()
            self._reap()

    def _reap(self) -> None:
        """Move what is in the ring into our set; the vCPU is not in the guest."""
        if self._vcpu.ring is None or not self._vcpu.ring.waiting:
            return
        reaped = self._vcpu.ring.reap()
        inside = (reaped.slots == _VRAM_SLOT) & (reaped.pages >= 0) & (reaped.pages < _VRAM_PAGES)
        self._harvest[reaped.pages[inside]] = True
        self._overflow = self._overflow or reaped.overflow
        self._vm.reset_dirty_rings()

    def _take_harvest(self) -> Fetched:
        pages = PageRuns.from_mask(self._harvest) if self._harvest.any() else NO_PAGES
        fetched = Fetched(pages, self._overflow)
        self._harvest[:] = False
        self._overflow = False
        return fetched

    def _set_vram_flags(self, flags: int) -> None:
        self._vm.set_memory(_VRAM_SLOT, VRAM_BASE, self._memory.vram.ctypes.data, VRAM_BYTES, flags)

    def _check_open(self) -> None:
        if self._closed:
            raise TargetGone("kvm", "machine", "it was closed")

    # What the guest does, on the thread that runs it

    def _run_on(self) -> Exit:
        while True:
            stop = self._vcpu.run()
            match stop:
                case exits.Io():
                    self._use_ports(stop)
                case exits.Halt():
                    return Exit(ExitKind.HALT)
                case exits.Interrupted():
                    return Exit(ExitKind.KICKED)
                case exits.DirtyRingFull():
                    self._empty_ring()
                case _:
                    return Exit(ExitKind.FAULT, _fault(stop))

    def _use_ports(self, io: exits.Io) -> None:
        """Each access of an instruction in turn; also a string's."""
        try:
            for at in range(0, io.size * io.count, io.size):
                data = io.data[at : at + io.size]
                if io.outward:
                    self._ports.write(io.port, io.size, int.from_bytes(data, "little"))
                else:
                    data[:] = self._ports.read(io.port, io.size).to_bytes(io.size, "little")
        except BaseException:
            # The instruction is finished, so that the registers say where the guest is.
            self._vcpu.immediate_exit = True
            self._vcpu.run()
            raise


def _require(kvm: Kvm, log: str) -> None:
    """Check that KVM has what is used here.

    Raises:
        VramtapError: it has not.
    """
    for name in ("KVM_CAP_USER_MEMORY", "KVM_CAP_IMMEDIATE_EXIT", _CAPABILITY[log]):
        if not kvm.check_extension(getattr(abi, name)):
            remedy = "use cpu=unicorn" if log == "bitmap" else "use log=bitmap"
            raise VramtapError("KVM_CHECK_EXTENSION", kvm.name, f"no {name} in this kernel", remedy)


def _says_yes(parameter: Path) -> bool:
    """Whether a module's parameter is there and on."""
    return parameter.exists() and parameter.read_text().strip() in ("Y", "1")


def _flat(selector: int, kind: int, *, long: bool) -> abi.KvmSegment:
    """A segment over all addresses, as the GDT of `machine.boot` describes it."""
    return abi.KvmSegment(
        limit=0xFFFF_FFFF, selector=selector, type=kind, present=1, db=not long, s=1, l=long, g=1
    )


def _fault(stop: exits.VmExit) -> str:
    """Why the guest cannot go on, for people."""
    match stop:
        case exits.Shutdown():
            return "triple fault"
        case exits.Mmio():
            return f"access to guest-physical {stop.address:#x}, where nothing is"
        case exits.InternalError():
            what = _INTERNAL.get(stop.suberror, "an internal error of KVM")
            return f"{what} (suberror {stop.suberror})"
        case exits.FailEntry():
            return f"the processor refused to enter it (reason {stop.reason:#x})"
        case exits.Other():
            return f"KVM stopped it for reason {stop.reason}, which nobody asked for"
        case _:
            return f"{stop}"
