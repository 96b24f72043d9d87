"""KvmCpu: a CPU run by KVM, on the VM's memory in place.

How a kick stops a vCPU and is never lost:

Facts. A signal makes KVM_RUN return, but a signal that arrives just before the call has no effect on it. A
blocked signal stays pending. KVM_SET_SIGNAL_MASK sets the mask that a vCPU's thread has inside KVM_RUN. If a
signal is blocked outside and unblocked inside, KVM_RUN returns at once when it is pending. The kernel never
delivers it: it restores the old mask before the thread returns (kernel: kvm_sigset_activate,
virt/kvm/kvm_main.c; a signal in `real_blocked` neither runs a handler nor kills). The signal stays pending
until it is accepted. `immediate_exit` ends a run that has not begun yet, without a signal. An `in` or `out`
is complete only when KVM_RUN has been entered again.

Consequences. With the signal blocked in the vCPU's thread, no kick can be lost, no handler is needed, and no
other thread of the process is affected. But the signal must be accepted after the run, or the next run ends
at once. It must never be sent to a thread that does not block it: there it would end the process.

Decision. A run blocks the signal and then records its thread. A kick reads that record, sets `immediate_exit`
and sends the signal, once for each run. At its end a run deletes the record, accepts the signal and restores
the mask. One lock covers the record, the flag and the signal, so no signal can arrive after the run has tried
to accept it. A kicked run ends by KVM_RUN's EINTR, and so with all port accesses complete.
"""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from vramtap.errors import TargetGone, UsageError, VramtapError
from vramtap.linux import kvm_abi as abi
from vramtap.linux import kvm_exits as exits
from vramtap.linux.kvm import Kvm, Vcpu, Vm
from vramtap.machine.cpu import Exit, ExitKind, Ports, Registers
from vramtap.machine.kvm_log import CAPABILITIES, LOG_FORMS, RING_ENTRIES, VramLog, set_vram_slot
from vramtap.machine.layout import BOOT_CR0, BOOT_CR4, BOOT_EFER, CODE_SELECTOR, DATA_SELECTOR, GDT, RAM_BYTES
from vramtap.pages import PAGE_SIZE

if TYPE_CHECKING:
    from vramtap.machine.memory import GuestMemory

KICK_SIGNAL: Final = signal.SIGRTMAX - 5
"""A real-time signal that the C library does not use. It is sent only to a thread inside `run`."""
_RAM_SLOT, _FLUSH_SLOT = 0, 2
_FLUSH_ADDRESS: Final = 0x7FFE_0000
_TSS_ADDRESS: Final = 0x7FFF_0000
"""Between RAM and video RAM, at addresses that no guest uses."""

# Intel SDM volume 3, 2.5 and 2.2.1.
_CR4_PGE: Final = 1 << 7
_RFLAGS_BOOT: Final = 0x2
"""RFLAGS at the start; bit 1 is always set."""
# Intel SDM volume 3, 3.4.5.1 and 3.5.
_TYPE_CODE, _TYPE_DATA, _TYPE_TASK = 0xB, 0x3, 0xB
_GDT_LIMIT: Final = 3 * 8 - 1
_TASK_LIMIT: Final = 103

_NESTED_PAGING: Final = ("/sys/module/kvm_intel/parameters/ept", "/sys/module/kvm_amd/parameters/npt")
_INTERNAL: Final = {1: "an instruction that KVM cannot emulate", 4: "an exit that KVM does not expect"}
"""Descriptions by suberror (linux/kvm.h: KVM_INTERNAL_ERROR_*)."""


class KvmCpu:
    """One vCPU in a KVM VM of its own.

    Args:
        memory: The VM's memory, which becomes the guest's memory in place.
        ports: The VM's ports, called on the thread that runs the CPU.
        log: Form of KVM's log of the video RAM: `bitmap` (read and cleared by one call), `manual` (cleared by
            a second call) or `ring`.
        ring_entries: Size of the dirty ring; a power of two.

    Raises:
        UsageError: no such form of log.
        NotFound: this host has no KVM.
        Refused: this user may not use KVM.
        VramtapError: KVM lacks a capability, for example this form of log.
    """

    name: Literal["unicorn", "kvm"] = "kvm"

    def __init__(
        self, memory: GuestMemory, ports: Ports, *, log: str = "bitmap", ring_entries: int = RING_ENTRIES
    ) -> None:
        if log not in LOG_FORMS:
            raise UsageError("log", log, "no such form of KVM's log", f"one of {', '.join(LOG_FORMS)}")
        self._memory = memory
        self._ports = ports
        self._lock = threading.Lock()
        self._thread: int | None = None
        self._kicked = False
        self._outer_mask: set[int] | None = None
        self._closed = False
        self._has_shadows = not any(_is_on(Path(path)) for path in _NESTED_PAGING)
        with Kvm.open() as kvm:
            _require(kvm, log)
            self._vm = kvm.create_vm()
            try:
                self._vcpu = self._set_up(kvm, log, ring_entries)
            except BaseException:
                self._vm.close()
                raise
        self.vram_log: Final = VramLog(self._vm, self._vcpu, memory, log)
        """KVM's log of the video RAM, for one tracker at a time."""

    def _set_up(self, kvm: Kvm, log: str, ring_entries: int) -> Vcpu:
        vm: Vm = self._vm
        if log == "manual":
            vm.enable_manual_protect()
        elif log == "ring":
            vm.enable_dirty_rings(ring_entries)
        vm.set_tss_address(_TSS_ADDRESS)
        vm.set_memory(_RAM_SLOT, 0, self._memory.ram.ctypes.data, RAM_BYTES)
        set_vram_slot(vm, self._memory)
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
        # Processors require a task segment in 64-bit mode, even if it is never used.
        sregs.tr = abi.KvmSegment(limit=_TASK_LIMIT, type=_TYPE_TASK, present=1)
        sregs.ldt = abi.KvmSegment(unusable=1)
        sregs.gdt = abi.KvmDtable(base=GDT, limit=_GDT_LIMIT)
        sregs.idt = abi.KvmDtable()
        sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer = BOOT_CR0, tables, BOOT_CR4, BOOT_EFER
        self._vcpu.set_sregs(sregs)
        self._vcpu.set_regs(abi.KvmRegs(rip=entry, rsp=stack, rdi=argument, rflags=_RFLAGS_BOOT))

    def run(self) -> Exit:
        """Run the guest until something happens; see `Cpu.run`.

        Raises:
            KernelError: KVM refuses to run it.
            TargetGone: the CPU was closed.
        """
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {KICK_SIGNAL})
        try:
            with self._lock:
                if self._closed:
                    raise TargetGone("KVM_RUN", "machine", "it was closed")
                if before != self._outer_mask:
                    self._vcpu.set_signal_mask(before - {KICK_SIGNAL})
                    self._outer_mask = {int(number) for number in before}
                self._thread = threading.get_ident()
            try:
                return self._run_until_exit()
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
        """Make `run` return soon; see `Cpu.kick`. A kick is lost only if no run is under way."""
        with self._lock:
            if self._thread is not None and not self._kicked:
                self._vcpu.immediate_exit = True
                signal.pthread_kill(self._thread, KICK_SIGNAL)
                self._kicked = True

    def registers(self) -> Registers:
        """Return the current registers.

        After a triple fault these are the guest's on Intel processors. AMD processors have reset them.
        """
        regs, sregs = self._vcpu.regs(), self._vcpu.sregs()
        return Registers(regs.rip, regs.rsp, sregs.cr2, sregs.cr3)

    def flush_tlb(self) -> None:
        """Flush every translation; see `Cpu.flush_tlb`.

        Facts: if CR4 is set with PGE changed, KVM rebuilds the vCPU's paging and flushes what the processor
        has cached, as after a guest's own change of PGE (kernel: __set_sregs, arch/x86/kvm/x86.c). With
        nested paging (EPT, NPT) there are no other translations. Without it KVM runs the guest on shadows of
        its tables. KVM follows the guest's writes to its tables but not this process's: a shadow survives the
        flush and lets stores through without setting the cleared dirty bit again (measured). Deleting any
        memory slot drops all shadows (kernel: kvm_arch_flush_shadow_memslot).

        Decision: toggle PGE off and on. If the host is not known to use nested paging, also add and delete a
        slot of one page while the guest stands still. Neither loses anything from the dirty log.
        """
        sregs = self._vcpu.sregs()
        sregs.cr4 ^= _CR4_PGE
        self._vcpu.set_sregs(sregs)
        sregs.cr4 ^= _CR4_PGE
        self._vcpu.set_sregs(sregs)
        if self._has_shadows:
            host_address = self._memory.ram.ctypes.data
            for size_bytes in (PAGE_SIZE, 0):
                self._vm.set_memory(_FLUSH_SLOT, _FLUSH_ADDRESS, host_address, size_bytes)

    def close(self) -> None:
        """Close the vCPU and the VM; harmless when called twice."""
        self.vram_log.end()
        with self._lock:
            self._closed = True
            self._vcpu.close()
            self._vm.close()

    # On the thread that runs the guest

    def _run_until_exit(self) -> Exit:
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
                    self.vram_log.make_room()
                case _:
                    return Exit(ExitKind.FAULT, _fault(stop))

    def _use_ports(self, io: exits.Io) -> None:
        """Execute each access of an instruction; a string instruction has several."""
        try:
            for at in range(0, io.size * io.count, io.size):
                data = io.data[at : at + io.size]
                if io.outward:
                    self._ports.write(io.port, io.size, int.from_bytes(data, "little"))
                else:
                    data[:] = self._ports.read(io.port, io.size).to_bytes(io.size, "little")
        except BaseException:
            # Complete the instruction, so that the registers show where the guest is.
            self._vcpu.immediate_exit = True
            self._vcpu.run()
            raise


def _require(kvm: Kvm, log: str) -> None:
    """Check that KVM has the capabilities used here.

    Raises:
        VramtapError: one is missing.
    """
    for name in ("KVM_CAP_USER_MEMORY", "KVM_CAP_IMMEDIATE_EXIT", CAPABILITIES[log]):
        if not kvm.check_extension(getattr(abi, name)):
            remedy = "use cpu=unicorn" if log == "bitmap" else "use log=bitmap"
            raise VramtapError("KVM_CHECK_EXTENSION", kvm.name, f"this kernel has no {name}", remedy)


def _is_on(parameter: Path) -> bool:
    """Return whether a module has this parameter and it is on."""
    return parameter.exists() and parameter.read_text().strip() in ("Y", "1")


def _flat(selector: int, kind: int, *, long: bool) -> abi.KvmSegment:
    """Return a segment that covers all addresses, as in the GDT of `machine.boot`."""
    return abi.KvmSegment(
        limit=0xFFFF_FFFF, selector=selector, type=kind, present=1, db=not long, s=1, l=long, g=1
    )


def _fault(stop: exits.VmExit) -> str:
    """Return why the guest cannot continue, in one clause."""
    match stop:
        case exits.Shutdown():
            return "triple fault"
        case exits.Mmio():
            return f"access to guest-physical {stop.address:#x}, where there is no memory"
        case exits.InternalError():
            what = _INTERNAL.get(stop.suberror, "an internal error of KVM")
            return f"{what} (suberror {stop.suberror})"
        case exits.FailEntry():
            return f"the processor refused to enter the guest (reason {stop.reason:#x})"
        case exits.Other():
            return f"KVM stopped it for the unexpected reason {stop.reason}"
        case _:
            return f"{stop}"
