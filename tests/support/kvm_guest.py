"""A guest under KVM that stores one byte into the video RAM after each `hlt`, on the test's request."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from vramtap.machine.boot import prepare
from vramtap.machine.cpu import Cpu, ExitKind, Ports
from vramtap.machine.kvm_cpu import KvmCpu
from vramtap.machine.kvm_log import LOG_FORMS, RING_ENTRIES
from vramtap.machine.layout import (
    BOOT_INFO,
    BOOT_PDPT,
    BOOT_PDS,
    BOOT_PML4,
    BOOT_STACK,
    IMAGE_BASE,
    VRAM_BASE,
)
from vramtap.machine.memory import GuestMemory
from vramtap.machine.run_notifier import RunNotifier
from vramtap.machine.space import GuestSpace
from vramtap.memory.extent import Extent
from vramtap.pages import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MAILBOX: Final = 0x9_1000
"""Guest-physical address of the request: the address to store at, 8 bytes, then the value, 1 byte."""
FIRST_PAGE: Final = 100
"""First page of the extent in the video RAM: in the middle of a group of 64 pages."""
STORE_AS_TOLD: Final = bytes.fromhex(
    "f4"  # 1: hlt
    f"488b0425{MAILBOX.to_bytes(4, 'little').hex()}"  # mov rax, [MAILBOX]
    f"8a1425{(MAILBOX + 8).to_bytes(4, 'little').hex()}"  # mov dl, [MAILBOX + 8]
    "8810"  # mov [rax], dl
    "ebec"  # jmp 1b
)
FORMS: Final = LOG_FORMS
_USER: Final = 0x4
"""U/S of an entry of any level (Intel SDM volume 3, 4.5.4)."""


class SilentPorts:
    """Ports without devices."""

    def read(self, port: int, size: int) -> int:
        return (1 << 8 * size) - 1

    def write(self, port: int, size: int, value: int) -> None:
        return


class KickingPorts(SilentPorts):
    """Ports that kick the CPU twice at each write, which stops a guest that cannot halt.

    Args:
        kick: Kicks the CPU.
    """

    def __init__(self, kick: Callable[[], None]) -> None:
        self.kick = kick

    def write(self, port: int, size: int, value: int) -> None:
        self.kick()
        self.kick()


class TinyMachine:
    """A KVM CPU with a few bytes of code. It runs in `until_halt` only, on the caller's thread."""

    def __init__(
        self,
        code: bytes,
        log: str = "bitmap",
        *,
        ports: Ports | None = None,
        ring_entries: int = RING_ENTRIES,
    ) -> None:
        self.memory = GuestMemory()
        self.runs = RunNotifier()
        prepare(self.memory, "")
        self.memory.ram[IMAGE_BASE : IMAGE_BASE + len(code)] = np.frombuffer(code, dtype=np.uint8)
        self.kvm = KvmCpu(self.memory, ports or SilentPorts(), log=log, ring_entries=ring_entries)
        self.kvm.start_at(IMAGE_BASE, stack=BOOT_STACK, argument=BOOT_INFO, tables=BOOT_PML4)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.kvm.close()

    @property
    def cpu(self) -> Cpu:
        return self.kvm

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        yield

    def until_halt(self) -> None:
        """Run the guest until it halts."""
        self.runs.begin()
        stop = self.kvm.run()
        self.runs.end(halted=stop.kind is ExitKind.HALT)
        assert stop.kind is ExitKind.HALT, stop

    def extent(self, pages: int, first: int = FIRST_PAGE) -> Extent:
        """Return an extent of the video RAM."""
        return Extent(GuestSpace(self), self.memory.vram.ctypes.data + first * PAGE_SIZE, pages)

    def store(self, offset_bytes: int, value: int) -> None:
        """Let the guest of `STORE_AS_TOLD` store one byte into its video RAM."""
        self.memory.words(MAILBOX, 1)[0] = VRAM_BASE + offset_bytes
        self.memory.ram[MAILBOX + 8] = value
        self.until_halt()


def enter_user_mode(memory: GuestMemory, cpu: KvmCpu) -> None:
    """Let a guest that has not run yet start in ring 3, where it may use ports but not halt.

    A KVM that emulates ring 0 (as when KVM itself runs in a guest) lets the processor run ring 3, on shadows
    of the guest's tables, a thousand times faster. There, faults log the stores, as on most hosts.
    """
    for address, entries in ((BOOT_PML4, 1), (BOOT_PDPT, 4), (BOOT_PDS, 2048)):
        memory.words(address, entries)[:] |= np.uint64(_USER)
    vcpu = cpu._vcpu
    sregs = vcpu.sregs()
    for name in ("cs", "ds", "es", "fs", "gs", "ss"):
        segment = getattr(sregs, name)
        segment.dpl, segment.selector = 3, segment.selector | 3
        setattr(sregs, name, segment)
    vcpu.set_sregs(sregs)
    regs = vcpu.regs()
    regs.rflags |= 3 << 12  # IOPL
    vcpu.set_regs(regs)


@dataclass
class KvmMemory:
    """`Memory` of the contract tests."""

    extent: Extent
    write: Callable[[int, int], None]


@contextlib.contextmanager
def _kvm_memory(log: str) -> Iterator[KvmMemory]:
    with TinyMachine(STORE_AS_TOLD, log) as machine:
        machine.until_halt()
        base = FIRST_PAGE * PAGE_SIZE
        yield KvmMemory(machine.extent(64), lambda offset, value: machine.store(base + offset, value))


def kvm_bitmap(tmp_path: Path) -> contextlib.AbstractContextManager[KvmMemory]:
    return _kvm_memory("bitmap")


def kvm_manual(tmp_path: Path) -> contextlib.AbstractContextManager[KvmMemory]:
    return _kvm_memory("manual")


def kvm_ring(tmp_path: Path) -> contextlib.AbstractContextManager[KvmMemory]:
    return _kvm_memory("ring")


KVM_MEMORIES: Final = [kvm_bitmap, kvm_manual, kvm_ring]
"""One for each form of KVM's log."""
