"""Cpu: the contract between the VM and the engine that runs its guest."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal, Protocol


class ExitKind(Enum):
    """Why a CPU stopped running the guest."""

    HALT = auto()
    """The guest executed `hlt`. The next run continues after it."""
    KICKED = auto()
    """`kick` was called, or something happened that does not concern the machine. Run again at will."""
    FAULT = auto()
    """The guest cannot continue: an unhandled exception, or an access where there is no memory."""


@dataclass(frozen=True, slots=True)
class Exit:
    """Result of `Cpu.run`.

    Args:
        kind: Why the run ended.
        detail: Description of a fault in one clause: `page fault`.
    """

    kind: ExitKind
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Registers:
    """Registers of a stopped CPU.

    Args:
        rip: Address of the next instruction, or of the faulting one.
        rsp: Stack pointer.
        cr2: Address of the last page fault.
        cr3: Guest-physical address of the PML4, flags included.
    """

    rip: int
    rsp: int
    cr2: int
    cr3: int


class Ports(Protocol):
    """I/O ports of the VM. The CPU calls them on the thread that runs it."""

    def read(self, port: int, size: int) -> int:
        """Execute an IN of 1, 2 or 4 bytes and return the value."""
        ...

    def write(self, port: int, size: int, value: int) -> None:
        """Execute an OUT of 1, 2 or 4 bytes."""
        ...


class NoPorts:
    """Ports for a guest that uses none: reads give ones, writes do nothing."""

    def read(self, port: int, size: int) -> int:
        """Return ones."""
        return (1 << 8 * size) - 1

    def write(self, port: int, size: int, value: int) -> None:
        """Do nothing."""


class Cpu(Protocol):
    """One x86-64 CPU over the VM's memory.

    Only one thread calls `run`. All other methods but `kick` need a stopped CPU: `run` has returned, and is
    not called again until the method has returned. The machine ensures this.
    """

    @property
    def name(self) -> Literal["unicorn", "kvm"]:
        """Its name in `cpu=`."""
        ...

    def start_at(self, entry: int, *, stack: int, argument: int, tables: int) -> None:
        """Put the CPU into 64-bit mode at an entry point, in the state that `machine.layout` describes.

        Args:
            entry: RIP.
            stack: RSP.
            argument: RDI.
            tables: CR3.
        """
        ...

    def run(self) -> Exit:
        """Run the guest until something happens. Errors that the ports raise propagate from here."""
        ...

    def kick(self) -> None:
        """Make `run` return soon; from any thread. A kick is lost if no run is under way."""
        ...

    def registers(self) -> Registers:
        """Return the current registers."""
        ...

    def flush_tlb(self) -> None:
        """Flush every translation, global ones too, so that changes to the page tables take effect."""
        ...

    def close(self) -> None:
        """Release all resources; harmless when called twice."""
        ...
