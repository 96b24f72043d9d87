"""UnicornCpu: a CPU emulated by Unicorn, on the VM's memory in place.

A port access cannot end a run: after `emu_stop` from a port hook the rest of the block still runs. A run that
ends by `hlt` and one that was stopped return alike. A `hlt` that coincides with a kick is therefore reported
as a kick. The VM allows this: `hlt` may return for no reason. `machine.stop_hook` explains how a kick stops a
run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from unicorn import (
    UC_ARCH_X86,
    UC_ERR_INSN_INVALID,
    UC_HOOK_INSN,
    UC_HOOK_INTR,
    UC_HOOK_MEM_INVALID,
    UC_HOOK_MEM_WRITE,
    UC_MODE_64,
    UC_PROT_ALL,
    Uc,
    UcError,
)
from unicorn.unicorn_const import UC_CTL_IO_WRITE, UC_CTL_TLB_FLUSH
from unicorn.x86_const import (
    UC_X86_INS_IN,
    UC_X86_INS_OUT,
    UC_X86_REG_CR0,
    UC_X86_REG_CR2,
    UC_X86_REG_CR3,
    UC_X86_REG_CR4,
    UC_X86_REG_RDI,
    UC_X86_REG_RIP,
    UC_X86_REG_RSP,
)

from vramtap.machine.cpu import Exit, ExitKind, Ports, Registers
from vramtap.machine.layout import BOOT_CR0, BOOT_CR4, BOOT_EFER, RAM_BYTES, VRAM_BASE, VRAM_BYTES
from vramtap.machine.stop_hook import StopHook
from vramtap.pages import PAGE_SIZE, PageRuns

if TYPE_CHECKING:
    from vramtap.machine.memory import GuestMemory

_NO_END: Final = (1 << 64) - 1
"""End address of a run, where no instruction can be: Unicorn would stop there."""
_EFER: Final = 0xC000_0080
EXCEPTIONS: Final = {
    0: "divide error",
    1: "debug exception",
    3: "breakpoint",
    6: "invalid opcode",
    8: "double fault",
    13: "general protection fault",
    14: "page fault",
}
"""Names of exceptions by vector (Intel SDM volume 3, table 6-1)."""


class UnicornCpu:
    """One emulated CPU.

    Args:
        memory: The VM's memory, used in place: a store of the guest is a store of this process.
        ports: The VM's ports, called on the thread that runs the CPU.
        record_writes: Record the pages of the video RAM that the guest stores into; about a hundred times
            slower.
    """

    name: Final[Literal["unicorn", "kvm"]] = "unicorn"

    def __init__(self, memory: GuestMemory, ports: Ports, *, record_writes: bool = False) -> None:
        self._memory = memory
        self._ports = ports
        self._fault: str | None = None
        self._cr2 = 0
        self._written: np.ndarray[Any, np.dtype[np.bool_]] | None = None
        self._uc = Uc(UC_ARCH_X86, UC_MODE_64)
        self._uc.mem_map_ptr(0, RAM_BYTES, UC_PROT_ALL, memory.ram.ctypes.data)
        self._uc.mem_map_ptr(VRAM_BASE, VRAM_BYTES, UC_PROT_ALL, memory.vram.ctypes.data)
        self._uc.hook_add(UC_HOOK_INSN, self._on_in, aux1=UC_X86_INS_IN)
        self._uc.hook_add(UC_HOOK_INSN, self._on_out, aux1=UC_X86_INS_OUT)
        self._uc.hook_add(UC_HOOK_INTR, self._on_exception)
        self._uc.hook_add(UC_HOOK_MEM_INVALID, self._on_no_memory)
        self._stop = StopHook(self._uc)
        if record_writes:
            self._written = np.zeros(VRAM_BYTES // PAGE_SIZE, dtype=np.bool_)
            self._uc.hook_add(
                UC_HOOK_MEM_WRITE, self._on_store, begin=VRAM_BASE, end=VRAM_BASE + VRAM_BYTES - 1
            )

    def start_at(self, entry: int, *, stack: int, argument: int, tables: int) -> None:
        """Put the CPU into 64-bit mode at an entry point; see `Cpu.start_at`."""
        self._uc.reg_write(UC_X86_REG_CR3, tables)
        self._uc.reg_write(UC_X86_REG_CR4, BOOT_CR4)
        self._uc.msr_write(_EFER, BOOT_EFER)
        self._uc.reg_write(UC_X86_REG_CR0, BOOT_CR0)
        self._uc.reg_write(UC_X86_REG_RSP, stack)
        self._uc.reg_write(UC_X86_REG_RDI, argument)
        self._uc.reg_write(UC_X86_REG_RIP, entry)

    def run(self) -> Exit:
        """Run the guest until something happens; see `Cpu.run`."""
        self._stop.requested = False
        begin = self._uc.reg_read(UC_X86_REG_RIP)
        try:
            self._uc.emu_start(begin, _NO_END)
        except UcError as error:
            # Unicorn reports an unknown opcode as an error, not as an exception.
            unknown = EXCEPTIONS[6] if error.errno == UC_ERR_INSN_INVALID else str(error)
            return Exit(ExitKind.FAULT, self._fault or unknown)
        if self._fault is not None:
            return Exit(ExitKind.FAULT, self._fault)
        return Exit(ExitKind.KICKED if self._stop.requested else ExitKind.HALT)

    def kick(self) -> None:
        """Make `run` return soon; see `Cpu.kick`."""
        self._stop.requested = True

    def registers(self) -> Registers:
        """Return the current registers."""
        read = self._uc.reg_read
        # Unicorn returns garbage for CR2 once a run has ended, so this is CR2 as the exception hook read it.
        return Registers(read(UC_X86_REG_RIP), read(UC_X86_REG_RSP), self._cr2, read(UC_X86_REG_CR3))

    def flush_tlb(self) -> None:
        """Flush every translation; about 2 us."""
        self._uc.ctl(UC_CTL_TLB_FLUSH, UC_CTL_IO_WRITE)

    def written(self) -> PageRuns:
        """Return the pages of the video RAM that the guest has stored into since the last call.

        Raises:
            ValueError: the CPU was made without `record_writes`.
        """
        if self._written is None:
            raise ValueError("stores are not recorded; make the CPU with record_writes=True")
        runs = PageRuns.from_mask(self._written)
        self._written[:] = False
        return runs

    def close(self) -> None:
        """Do nothing: memory is released with the object."""

    # Hooks: on the thread that runs the CPU

    def _on_in(self, uc: Uc, port: int, size: int, data: object) -> int:
        return self._ports.read(port, size)

    def _on_out(self, uc: Uc, port: int, size: int, value: int, data: object) -> None:
        self._ports.write(port, size, value)

    def _on_exception(self, uc: Uc, vector: int, data: object) -> None:
        # The first exception counts. Before the run ends Unicorn may repeat the instruction and report a
        # double fault.
        if self._fault is None:
            self._fault = EXCEPTIONS.get(vector, f"exception {vector}")
            self._cr2 = uc.reg_read(UC_X86_REG_CR2)
        uc.emu_stop()

    def _on_no_memory(self, uc: Uc, access: int, address: int, size: int, value: int, data: object) -> bool:
        self._fault = f"access to guest-physical {address:#x}, where there is no memory"
        return False

    def _on_store(self, uc: Uc, access: int, address: int, size: int, value: int, data: object) -> None:
        # The address is guest-physical. A store across the end of a page is reported once. Its second page is
        # taken to be the next frame, which is true where video RAM is mapped contiguously.
        written = self._written
        if written is not None:
            first = (address - VRAM_BASE) // PAGE_SIZE
            last = (address - VRAM_BASE + size - 1) // PAGE_SIZE
            written[first : last + 1] = True
