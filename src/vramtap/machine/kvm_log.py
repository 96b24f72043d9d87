"""VramLog: KVM's dirty log of the video RAM, in three forms, as page runs."""

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
"""Size of the dirty ring, 1 MiB: the maximum of KVM (KVM_DIRTY_RING_MAX_ENTRIES). Where the processor logs,
each of the video RAM's 4,096 pages appears once between two resets. Where KVM emulates, each store adds an
entry."""
CAPABILITIES: Final = {
    "bitmap": "KVM_CAP_USER_MEMORY",
    "manual": "KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2",
    "ring": "KVM_CAP_DIRTY_LOG_RING",
}
"""Capability of KVM that each form of its log needs."""
LOG_FORMS: Final = tuple(CAPABILITIES)
"""Forms of the log. Every KVM has the first."""
_PAGES: Final = VRAM_BYTES // PAGE_SIZE


def set_vram_slot(vm: Vm, memory: GuestMemory, flags: int = 0) -> None:
    """Create the memory slot of the video RAM, or change its flags."""
    vm.set_memory(VRAM_SLOT, VRAM_BASE, memory.vram.ctypes.data, VRAM_BYTES, flags)


@dataclass(frozen=True, slots=True)
class Fetched:
    """Content of the log.

    Args:
        pages: Written pages, relative to the video RAM.
        overflow: Whether the log was full, so that pages may be missing.
    """

    pages: PageRuns
    overflow: bool = False


class VramLog:
    """The log of one VM's video RAM. Any thread may use it, unless a method says otherwise.

    Args:
        vm: Has the slot `VRAM_SLOT`; not owned.
        vcpu: Its only vCPU; not owned.
        memory: Memory of the VM.
        form: One of `LOG_FORMS`, for which the VM was set up.
    """

    def __init__(self, vm: Vm, vcpu: Vcpu, memory: GuestMemory, form: str) -> None:
        self.form: Final = form
        self._vm = vm
        self._vcpu = vcpu
        self._memory = memory
        self._lock = threading.Lock()
        self._on = False
        self._ended = False
        self._reaped: NDArray[np.bool_] = np.zeros(_PAGES, dtype=np.bool_)
        self._overflow = False

    def start(self) -> None:
        """Start logging. With a ring, the CPU must be stopped.

        Raises:
            Refused: another tracker reads this log, and each would miss what the other has read.
            TargetGone: the VM was closed.
        """
        with self._lock:
            self._raise_if_ended()
            if self._on:
                raise Refused("kvmlog", "machine", "another tracker reads its log", "use one at a time")
            set_vram_slot(self._vm, self._memory, abi.KVM_MEM_LOG_DIRTY_PAGES)
            self._on = True
            if self.form == "ring":
                # Discard the entries of an earlier log.
                self._reap()
                self._take_reaped()

    def stop(self) -> None:
        """Stop logging, so that KVM no longer traps stores; harmless when called again."""
        with self._lock:
            if self._on and not self._ended:
                set_vram_slot(self._vm, self._memory)
            self._on = False

    def end(self) -> None:
        """Note that the VM is being closed: do not use it any more."""
        with self._lock:
            self._ended = True

    def fetch(self, first: int = 0, last: int = _PAGES) -> Fetched:
        """Read and clear the log. With a ring, the CPU must be stopped.

        Args:
            first: First page of the range, relative to the video RAM.
            last: End of the range, exclusive.

        Returns:
            All written pages in the range, and possibly others, which are cleared as well.

        Raises:
            TargetGone: the VM was closed.
            KernelError: KVM refused.
        """
        with self._lock:
            self._raise_if_ended()
            if self.form == "ring":
                self._reap()
                return self._take_reaped()
            bitmap = self._vm.dirty_log(VRAM_SLOT)
            if not bitmap.any():
                return Fetched(NO_PAGES)
            written = np.unpackbits(bitmap, bitorder="little").astype(np.bool_)
            if self.form == "manual":
                written[:first] = written[last:] = False
                self._clear(written)
            return Fetched(PageRuns.from_mask(written))

    def has_pages(self) -> bool | None:
        """Return whether the log holds pages; None for a form that cannot be read without clearing it.

        Raises:
            TargetGone: the VM was closed.
            KernelError: KVM refused.
        """
        with self._lock:
            self._raise_if_ended()
            if self.form == "bitmap":
                return None
            if self.form == "manual":
                return bool(self._vm.dirty_log(VRAM_SLOT).any())
            ring = self._vcpu.ring
            return self._overflow or bool(self._reaped.any()) or (ring is not None and ring.waiting)

    def make_room(self) -> None:
        """Empty a full ring so that the guest can continue, and keep its pages for `fetch`.

        Call it on the thread that runs the CPU.
        """
        with self._lock:
            if self._vcpu.ring is not None and not self._vcpu.ring.waiting:
                self._vcpu.ring.skip()
                self._vm.reset_dirty_rings()
            self._reap()

    def _raise_if_ended(self) -> None:
        if self._ended:
            raise TargetGone("kvmlog", "machine", "it was closed")

    def _clear(self, written: NDArray[np.bool_]) -> None:
        """Clear these pages and no others.

        A page that is written again before that is not lost: the caller reads its pixels later.
        """
        pages = np.flatnonzero(written)
        if len(pages):
            start = int(pages[0]) // CLEAR_GRANULE_PAGES * CLEAR_GRANULE_PAGES
            end = -(-(int(pages[-1]) + 1) // CLEAR_GRANULE_PAGES) * CLEAR_GRANULE_PAGES
            self._vm.clear_dirty_log(VRAM_SLOT, start, np.packbits(written[start:end], bitorder="little"))

    def _reap(self) -> None:
        """Move the ring's entries to `_reaped`; the vCPU is not in the guest."""
        ring = self._vcpu.ring
        if ring is None or not ring.waiting:
            return
        reaped = ring.reap()
        inside = (reaped.slots == VRAM_SLOT) & (reaped.pages >= 0) & (reaped.pages < _PAGES)
        self._reaped[reaped.pages[inside]] = True
        self._overflow = self._overflow or reaped.overflow
        self._vm.reset_dirty_rings()

    def _take_reaped(self) -> Fetched:
        pages = PageRuns.from_mask(self._reaped) if self._reaped.any() else NO_PAGES
        fetched = Fetched(pages, self._overflow)
        self._reaped[:] = False
        self._overflow = False
        return fetched
