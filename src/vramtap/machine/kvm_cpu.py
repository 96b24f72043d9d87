"""The CPU by KVM, over the machine's memory in place.

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
"""Any real-time signal that the C library keeps for nothing; only ever sent to a thread inside `run`."""
_RAM_SLOT, _PASSING_SLOT = 0, 2
_PASSING_ADDRESS: Final = 0x7FFE_0000
_TSS_ADDRESS: Final = 0x7FFF_0000
"""Between RAM and video RAM, where no guest has business."""

# Intel SDM volume 3, 2.5 and 2.2.1.
_CR4_PGE: Final = 1 << 7
_RFLAGS_BOOT: Final = 0x2
"""Bit 1 is always set."""
# Intel SDM volume 3, 3.4.5.1 and 3.5.
_TYPE_CODE, _TYPE_DATA, _TYPE_TASK = 0xB, 0x3, 0xB
_GDT_LIMIT: Final = 3 * 8 - 1
_TASK_LIMIT: Final = 103

_TWO_DIMENSIONAL: Final = ("/sys/module/kvm_intel/parameters/ept", "/sys/module/kvm_amd/parameters/npt")
_INTERNAL: Final = {1: "an instruction that KVM cannot emulate", 4: "an exit that KVM does not expect"}
"""By suberror (linux/kvm.h: KVM_INTERNAL_ERROR_*)."""


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
        if log not in LOG_FORMS:
            raise UsageError("log", log, "no such form of KVM's log", f"one of {', '.join(LOG_FORMS)}")
        self._memory = memory
        self._ports = ports
        self._lock = threading.Lock()
        self._thread: int | None = None
        self._kicked = False
        self._outside: set[int] | None = None
        self._closed = False
        self._shadowed = not any(_says_yes(Path(path)) for path in _TWO_DIMENSIONAL)
        with Kvm.open() as kvm:
            _require(kvm, log)
            self._vm = kvm.create_vm()
            try:
                self._vcpu = self._furnish(kvm, log, ring_entries)
            except BaseException:
                self._vm.close()
                raise
        self.vram_log: Final = VramLog(self._vm, self._vcpu, memory, log)
        """KVM's log of the video RAM; read by one tracker at a time."""

    def _furnish(self, kvm: Kvm, log: str, ring_entries: int) -> Vcpu:
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
        # Processors demand a task segment in 64-bit mode, be it never used; of the rest there is none.
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
            KernelError: KVM will not run it.
            TargetGone: closed.
        """
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {KICK_SIGNAL})
        try:
            with self._lock:
                if self._closed:
                    raise TargetGone("KVM_RUN", "machine", "it was closed")
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
        self.vram_log.end()
        with self._lock:
            self._closed = True
            self._vcpu.close()
            self._vm.close()

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
                    self.vram_log.make_room()
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
    for name in ("KVM_CAP_USER_MEMORY", "KVM_CAP_IMMEDIATE_EXIT", CAPABILITIES[log]):
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
