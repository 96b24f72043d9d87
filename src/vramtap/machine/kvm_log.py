"""KVM's log of the video RAM in its three forms, each turned into page runs."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from vramtap.errors import Refused, TargetGone
from vramtap.linux import kvm_abi as abi
from vramtap.linux.kvm import CLEAR_GRANULE_PAGES, Vcpu, Vm
from vramtap.machine.layout import VRAM_BASE, VRAM_BYTES
from vramtap.pages import NO_PAGES, PAGE_SIZE, PageRuns

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vramtap.machine.memory import GuestMemory

VRAM_SLOT: Final = 1
RING_ENTRIES: Final = 65536
"""Of the dirty ring, 1 MiB: the most that KVM takes (KVM_DIRTY_RING_MAX_ENTRIES). Where the processor logs,
the video RAM's 4,096 pages appear once each between two resets; where KVM emulates, each store does."""
CAPABILITIES: Final = {
    "bitmap": "KVM_CAP_USER_MEMORY",
    "manual": "KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2",
    "ring": "KVM_CAP_DIRTY_LOG_RING",
}
"""What KVM needs for each form of its log."""
LOG_FORMS: Final = tuple(CAPABILITIES)
"""The first is there wherever KVM is."""
_PAGES: Final = VRAM_BYTES // PAGE_SIZE


def set_vram_slot(vm: Vm, memory: GuestMemory, flags: int = 0) -> None:
    """Make the video RAM's slot, or change its flags."""
    vm.set_memory(VRAM_SLOT, VRAM_BASE, memory.vram.ctypes.data, VRAM_BYTES, flags)


@dataclass(frozen=True, slots=True)
class Fetched:
    """What the log said.

    Args:
        pages: Written, relative to the video RAM.
        overflow: The log was full: pages may be missing.
    """

    pages: PageRuns
    overflow: bool = False


class VramLog:
    """The log of one machine's video RAM. From any thread, but where it says otherwise.

    Args:
        vm: Whose slot `VRAM_SLOT` it is; not owned.
        vcpu: Its only vCPU; not owned.
        memory: The machine's.
        form: One of `LOG_FORMS`, as the machine was made for.
    """

    def __init__(self, vm: Vm, vcpu: Vcpu, memory: GuestMemory, form: str) -> None:
        self.form: Final = form
        self._vm = vm
        self._vcpu = vcpu
        self._memory = memory
        self._lock = threading.Lock()
        self._on = False
        self._ended = False
        self._harvest: NDArray[np.bool_] = np.zeros(_PAGES, dtype=np.bool_)
        self._overflow = False

    def start(self) -> None:
        """Begin to log. With a ring the CPU is stopped.

        Raises:
            Refused: somebody else reads this log: what one reads, the other does not see.
            TargetGone: the machine was closed.
        """
        with self._lock:
            self._check()
            if self._on:
                raise Refused("kvmlog", "machine", "another tracker reads its log", "use one at a time")
            set_vram_slot(self._vm, self._memory, abi.KVM_MEM_LOG_DIRTY_PAGES)
            self._on = True
            if self.form == "ring":
                # Entries of an earlier log.
                self._reap()
                self._take_harvest()

    def stop(self) -> None:
        """Log no more: the guest's stores are no longer trapped. Harmless twice, and once closed."""
        with self._lock:
            if self._on and not self._ended:
                set_vram_slot(self._vm, self._memory)
            self._on = False

    def end(self) -> None:
        """The machine goes: nothing of it is touched any more."""
        with self._lock:
            self._ended = True

    def fetch(self, first: int = 0, last: int = _PAGES) -> Fetched:
        """Read and clear. With a ring the CPU is stopped.

        Args:
            first: First page of the video RAM that is asked about.
            last: Page past the last.

        Returns:
            All pages written in that range, and maybe others, which are cleared as well.

        Raises:
            TargetGone: the machine was closed.
            KernelError: KVM refused.
        """
        with self._lock:
            self._check()
            if self.form == "ring":
                self._reap()
                return self._take_harvest()
            bitmap = self._vm.dirty_log(VRAM_SLOT)
            if not bitmap.any():
                return Fetched(NO_PAGES)
            written = np.unpackbits(bitmap, bitorder="little").astype(np.bool_)
            if self.form == "manual":
                written[:first] = written[last:] = False
                self._clear(written)
            return Fetched(PageRuns.from_mask(written))

    def has_pages(self) -> bool | None:
        """Return whether the log holds pages; None for a form that can only be read and cleared at once.

        Raises:
            TargetGone: the machine was closed.
            KernelError: KVM refused.
        """
        with self._lock:
            self._check()
            if self.form == "bitmap":
                return None
            if self.form == "manual":
                return bool(self._vm.dirty_log(VRAM_SLOT).any())
            ring = self._vcpu.ring
            return self._overflow or bool(self._harvest.any()) or (ring is not None and ring.waiting)

    def make_room(self) -> None:
        """Empty a full ring, whoever wants to know what was in it, so that the guest can go on.

        On the thread that runs the CPU.
        """
        with self._lock:
            if self._vcpu.ring is not None and not self._vcpu.ring.waiting:
                self._vcpu.ring.skip()
                self._vm.reset_dirty_rings()
            self._reap()

    def _check(self) -> None:
        if self._ended:
            raise TargetGone("kvmlog", "machine", "it was closed")

    def _clear(self, written: NDArray[np.bool_]) -> None:
        """Clear these pages and no others; one that was written again since is read after."""
        pages = np.flatnonzero(written)
        if len(pages):
            start = int(pages[0]) // CLEAR_GRANULE_PAGES * CLEAR_GRANULE_PAGES
            end = -(-(int(pages[-1]) + 1) // CLEAR_GRANULE_PAGES) * CLEAR_GRANULE_PAGES
            self._vm.clear_dirty_log(VRAM_SLOT, start, np.packbits(written[start:end], bitorder="little"))

    def _reap(self) -> None:
        """Move what is in the ring into our set; the vCPU is not in the guest."""
        ring = self._vcpu.ring
        if ring is None or not ring.waiting:
            return
        reaped = ring.reap()
        inside = (reaped.slots == VRAM_SLOT) & (reaped.pages >= 0) & (reaped.pages < _PAGES)
        self._harvest[reaped.pages[inside]] = True
        self._overflow = self._overflow or reaped.overflow
        self._vm.reset_dirty_rings()

    def _take_harvest(self) -> Fetched:
        pages = PageRuns.from_mask(self._harvest) if self._harvest.any() else NO_PAGES
        fetched = Fetched(pages, self._overflow)
        self._harvest[:] = False
        self._overflow = False
        return fetched
