"""The CPU by emulation: Unicorn, over the machine's memory in place.

Stopping Unicorn, and what it costs to get it wrong (measured on Unicorn 2.1.4):

Facts. `emu_stop` from another thread ends the run at the next block of translated code, with RIP exact. From
inside a port hook it does not end it there: the rest of the block still runs. Once memory is hooked, code is
translated with a further check after each store, and a run that ends at such a check leaves RIP *before* the
store, which is then made twice: 300,136 turns of a loop of `inc` counted 300,155. `emu_stop` before
`emu_start` has begun is forgotten. A run that ends by `hlt` and one that was stopped return alike.

Consequences. A kick may not touch a run while memory is hooked; a port access cannot end a run; after a run
it must be known whether it was kicked, and a kick that came too early must be given again.

Decision. While stores are recorded a kick only sets a flag, and a hook at the start of each block stops the
run, where nothing can be made twice. Otherwise the kick stops it. The flag is set and the run stopped under
one lock, under which a run also clears the flag: so a run that was stopped always finds it set. A `hlt` that
coincides with a kick is told as a kick, which the machine allows: `hlt` may return for no reason. The
machine kicks again until the run has ended.
"""

from __future__ import annotations

import threading
from typing import Any, Final, Literal

import numpy as np
from unicorn import (
    UC_ARCH_X86,
    UC_ERR_INSN_INVALID,
    UC_HOOK_BLOCK,
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
from vramtap.machine.layout import RAM_BYTES, VRAM_BASE, VRAM_BYTES
from vramtap.machine.memory import GuestMemory
from vramtap.pages import PAGE_SIZE, PageRuns

_FOR_EVER: Final = (1 << 64) - 1
"""An address no instruction is at: Unicorn stops when it gets there."""
CR0_BOOT: Final = 0x8001_0033
"""PG, WP, NE, ET, MP, PE (Intel SDM volume 3, 2.5)."""
CR4_BOOT: Final = 0x2A0
"""OSFXSR, PGE, PAE."""
_EFER: Final = 0xC000_0080
_EFER_BOOT: Final = 0x501
"""LMA, LME, SCE."""
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
        self._lock = threading.Lock()
        self._kicked = False
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
        if record_writes:
            self._written = np.zeros(VRAM_BYTES // PAGE_SIZE, dtype=np.bool_)
            self._uc.hook_add(
                UC_HOOK_MEM_WRITE, self._on_store, begin=VRAM_BASE, end=VRAM_BASE + VRAM_BYTES - 1
            )
            self._uc.hook_add(UC_HOOK_BLOCK, self._on_block)

    def start_at(self, entry: int, *, stack: int, argument: int, tables: int) -> None:
        """Put the CPU into 64-bit mode at an entry point; see `Cpu.start_at`."""
        self._uc.reg_write(UC_X86_REG_CR3, tables)
        self._uc.reg_write(UC_X86_REG_CR4, CR4_BOOT)
        self._uc.msr_write(_EFER, _EFER_BOOT)
        self._uc.reg_write(UC_X86_REG_CR0, CR0_BOOT)
        self._uc.reg_write(UC_X86_REG_RSP, stack)
        self._uc.reg_write(UC_X86_REG_RDI, argument)
        self._uc.reg_write(UC_X86_REG_RIP, entry)

    def run(self) -> Exit:
        """Run the guest until something happens; see `Cpu.run`."""
        with self._lock:
            self._kicked = False
        begin = self._uc.reg_read(UC_X86_REG_RIP)
        try:
            self._uc.emu_start(begin, _FOR_EVER)
        except UcError as error:
            # An opcode it does not know is not told as an exception.
            unknown = EXCEPTIONS[6] if error.errno == UC_ERR_INSN_INVALID else str(error)
            return Exit(ExitKind.FAULT, self._fault or unknown)
        if self._fault is not None:
            return Exit(ExitKind.FAULT, self._fault)
        with self._lock:
            return Exit(ExitKind.KICKED if self._kicked else ExitKind.HALT)

    def kick(self) -> None:
        """Make `run` return soon; see `Cpu.kick`."""
        with self._lock:
            self._kicked = True
            if self._written is None:
                self._uc.emu_stop()

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
        self._fault = EXCEPTIONS.get(vector, f"exception {vector}")
        self._cr2 = uc.reg_read(UC_X86_REG_CR2)
        uc.emu_stop()

    def _on_nothing_there(
        self, uc: Uc, access: int, address: int, size: int, value: int, data: object
    ) -> bool:
        self._fault = f"access to guest-physical {address:#x}, where nothing is"
        return False

    def _on_block(self, uc: Uc, address: int, size: int, data: object) -> None:
        if self._kicked:
            uc.emu_stop()

    def _on_store(self, uc: Uc, access: int, address: int, size: int, value: int, data: object) -> None:
        # Guest-physical, and told once for a store across a page's end: the second page is taken to be the
        # next frame, as it is where video RAM is mapped contiguously.
        written = self._written
        if written is not None:
            first = (address - VRAM_BASE) // PAGE_SIZE
            last = (address - VRAM_BASE + size - 1) // PAGE_SIZE
            written[first : last + 1] = True
