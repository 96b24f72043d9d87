"""Cpu: the contract between the machine and what runs its guest."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal, Protocol


class ExitKind(Enum):
    """Why a CPU stopped running the guest."""

    HALT = auto()
    """The guest executed `hlt`; running again goes on after it."""
    KICKED = auto()
    """Somebody called `kick`, or nothing happened that concerns the machine; run again at will."""
    FAULT = auto()
    """The guest cannot go on: an exception nobody handles, or an access to nothing."""


@dataclass(frozen=True, slots=True)
class Exit:
    """One return of `Cpu.run`.

    Args:
        kind: Why.
        detail: For a fault, one clause for people: `page fault`.
    """

    kind: ExitKind
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Registers:
    """Of a stopped CPU.

    Args:
        rip: Address of the next instruction, or of the one that faulted.
        rsp: Stack pointer.
        cr2: Address of the last page fault.
        cr3: Guest-physical address of the PML4, flags included.
    """

    rip: int
    rsp: int
    cr2: int
    cr3: int


class Ports(Protocol):
    """What the CPU asks when the guest uses a port; called on the CPU's thread."""

    def read(self, port: int, size: int) -> int:
        """IN of 1, 2 or 4 bytes."""
        ...

    def write(self, port: int, size: int, value: int) -> None:
        """OUT of 1, 2 or 4 bytes."""
        ...


class Cpu(Protocol):
    """One x86-64 CPU over the machine's memory.

    `run` is called on one thread only. All else but `kick` needs the CPU stopped: `run` has returned and
    is not called until the caller is done. The machine sees to that.
    """

    @property
    def name(self) -> Literal["unicorn", "kvm"]:
        """What `cpu=` calls it."""
        ...

    def start_at(self, entry: int, *, stack: int, argument: int, tables: int) -> None:
        """Put the CPU into 64-bit mode at an entry point, as `machine.layout` describes it.

        Args:
            entry: RIP.
            stack: RSP.
            argument: RDI.
            tables: CR3.
        """
        ...

    def run(self) -> Exit:
        """Run the guest until something happens. Errors raised by the ports come out here."""
        ...

    def kick(self) -> None:
        """Make `run` return soon, from any thread. A kick while it is not running may be lost."""
        ...

    def registers(self) -> Registers:
        """As they are now."""
        ...

    def flush_tlb(self) -> None:
        """Forget every translation, global ones too: what was changed in the tables holds from here on."""
        ...

    def close(self) -> None:
        """Give everything back; harmless twice."""
        ...
