"""The CPU by emulation: Unicorn, over the machine's memory in place.

A port access cannot end a run: `emu_stop` from a port hook lets the rest of the block run. A run that ends by
`hlt` and one that was stopped return alike, so a `hlt` that coincides with a kick is told as a kick, which
the machine allows: `hlt` may return for no reason. How a kick stops it is in `machine.stop_hook`.
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

_FOR_EVER: Final = (1 << 64) - 1
"""An address no instruction is at: Unicorn stops when it gets there."""
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
"""By vector (Intel SDM volume 3, table 6-1)."""


class UnicornCpu:
    """One emulated CPU.

    Args:
        memory: Mapped in place: a store of the guest is a store of this process.
        ports: Asked on the thread that runs the CPU.
        record_writes: Keep the set of video RAM pages that the guest stores into; about a hundred times
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
        self._uc.hook_add(UC_HOOK_MEM_INVALID, self._on_nothing_there)
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
        self._stop.asked = False
        begin = self._uc.reg_read(UC_X86_REG_RIP)
        try:
            self._uc.emu_start(begin, _FOR_EVER)
        except UcError as error:
            # An opcode it does not know is not told as an exception.
            unknown = EXCEPTIONS[6] if error.errno == UC_ERR_INSN_INVALID else str(error)
            return Exit(ExitKind.FAULT, self._fault or unknown)
        if self._fault is not None:
            return Exit(ExitKind.FAULT, self._fault)
        return Exit(ExitKind.KICKED if self._stop.asked else ExitKind.HALT)

    def kick(self) -> None:
        """Make `run` return soon; see `Cpu.kick`."""
        self._stop.asked = True

    def registers(self) -> Registers:
        """As they are now."""
        read = self._uc.reg_read
        # CR2 reads as garbage once a run has ended: the one that the exception found is told.
        return Registers(read(UC_X86_REG_RIP), read(UC_X86_REG_RSP), self._cr2, read(UC_X86_REG_CR3))

    def flush_tlb(self) -> None:
        """Forget every translation; about 2 us."""
        self._uc.ctl(UC_CTL_TLB_FLUSH, UC_CTL_IO_WRITE)

    def written(self) -> PageRuns:
        """The pages of the video RAM that the guest has stored into since the last call.

        Raises:
            ValueError: stores are not recorded.
        """
        if self._written is None:
            raise ValueError("stores are not recorded; construct with record_writes=True")
        runs = PageRuns.from_mask(self._written)
        self._written[:] = False
        return runs

    def close(self) -> None:
        """Nothing is held but memory, which goes with the object."""

    # Hooks: on the thread that runs the CPU

    def _on_in(self, uc: Uc, port: int, size: int, data: object) -> int:
        return self._ports.read(port, size)

    def _on_out(self, uc: Uc, port: int, size: int, value: int, data: object) -> None:
        self._ports.write(port, size, value)

    def _on_exception(self, uc: Uc, vector: int, data: object) -> None:
        # Not the double fault that follows when the instruction is tried once more before the run ends.
        if self._fault is None:
            self._fault = EXCEPTIONS.get(vector, f"exception {vector}")
            self._cr2 = uc.reg_read(UC_X86_REG_CR2)
        uc.emu_stop()

    def _on_nothing_there(
        self, uc: Uc, access: int, address: int, size: int, value: int, data: object
    ) -> bool:
        self._fault = f"access to guest-physical {address:#x}, where nothing is"
        return False

    def _on_store(self, uc: Uc, access: int, address: int, size: int, value: int, data: object) -> None:
        # Guest-physical, and told once for a store across a page's end: the second page is taken to be the
        # next frame, as it is where video RAM is mapped contiguously.
        written = self._written
        if written is not None:
            first = (address - VRAM_BASE) // PAGE_SIZE
            last = (address - VRAM_BASE + size - 1) // PAGE_SIZE
            written[first : last + 1] = True
