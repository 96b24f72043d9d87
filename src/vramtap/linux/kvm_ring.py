"""DirtyRing: the ring of written pages that KVM keeps for each vCPU, read from shared memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from vramtap.linux import kvm_abi as abi

if TYPE_CHECKING:
    import mmap

    from numpy.typing import NDArray

ENTRY: Final = np.dtype([("flags", np.uint32), ("slot", np.uint32), ("offset", np.uint64)])
"""`struct kvm_dirty_gfn`."""
SKIP: Final = 64
"""Entries that KVM has taken at least when it calls a ring full (KVM_DIRTY_RING_RSVD_ENTRIES of
include/linux/kvm_dirty_ring.h is what it keeps free, and no ring is smaller than twice that)."""
_CHUNK: Final = 1024
_STATE: Final = abi.KVM_DIRTY_GFN_F_DIRTY | abi.KVM_DIRTY_GFN_F_RESET


@dataclass(frozen=True, slots=True)
class Reaped:
    """What was in the ring.

    Args:
        slots: Memory slot of each page, shape `(n,)`.
        pages: Page in that slot, shape `(n,)`; a page may be named more than once.
        overflow: Every entry was taken: KVM may have written over some that nobody has read.
    """

    slots: NDArray[np.uint32]
    pages: NDArray[np.int64]
    overflow: bool


class DirtyRing:
    """One vCPU's ring.

    Kernel: Documentation/virt/kvm/api.rst, KVM_CAP_DIRTY_LOG_RING; since 5.11.
    Cost: nothing to look at; reaping 4,096 entries about 0.1 ms.

    Facts. An entry is clean (flags 00), dirty (01) or reaped (1x). KVM makes clean ones dirty, one after the
    other; we make dirty ones reaped, in that order and leaving none out; KVM_RESET_DIRTY_RINGS makes reaped
    ones clean, from where it stopped last to the first that is not reaped, and protects their pages again.
    Entries reach the ring when the vCPU leaves the guest, at the latest (Intel's page-modification log is a
    buffer in between). KVM stops the guest some entries before the ring is full, and asks nothing more: where
    it emulates stores, each is an entry, several hundred are made before it looks, and they run over the
    end (measured on Linux 6.18, which warns once and writes over the oldest). From then on KVM writes as
    many entries ahead of its own resetting as were overrun, for ever: it may find the ring full when every
    entry is clean.

    Consequences. Reaping is complete only with the vCPU stopped. A ring all of whose entries are dirty
    vouches for nothing; one with a clean entry was not overrun since the last reset. After an overrun dirty
    entries may begin behind clean ones, and those will never become dirty by themselves.

    Decision. A wholly dirty ring is an overflow, and sets the ring adrift. Adrift, clean entries before dirty
    ones are called reaped too, so that KVM's resetting passes them and catches up. No entry is passed that
    KVM has not written: a dirty entry behind it proves that it has; and when the ring is full with no
    dirty entry at all, as many as it takes at least to be full may be passed (`skip`). Pages are read after
    the reset, never before.

    Args:
        mapping: The ring's pages, shared with the kernel; kept as long as this object.
    """

    def __init__(self, mapping: mmap.mmap | bytearray) -> None:
        self._entries: NDArray[np.void] = np.frombuffer(mapping, dtype=ENTRY)
        self._flags: NDArray[np.uint32] = self._entries["flags"]
        self._next = 0
        self._adrift = False

    @property
    def waiting(self) -> bool:
        """Whether an entry is there to be reaped; changes nothing, and may be asked from any thread."""
        if self._adrift:
            return bool(self._dirty_entries().any())
        return int(self._flags[self._next]) & _STATE == abi.KVM_DIRTY_GFN_F_DIRTY

    def reap(self) -> Reaped:
        """Take all dirty entries; the vCPU is stopped, and the rings are reset before it runs on."""
        taken = self._take()
        passed = sum(map(len, taken))
        while self._adrift:
            left = np.flatnonzero(self._dirty_entries())
            if not len(left):
                break
            gap = int(((left - self._next) % len(self._flags)).min())
            self._pass(gap)
            found = self._take()
            taken += found
            passed += gap + sum(map(len, found))
        if passed:
            # Short of a full circle, we stand where KVM writes next; after one, somewhere before it.
            self._adrift = passed == len(self._flags)
        places = np.concatenate(taken) if taken else np.empty(0, dtype=np.int64)
        slots, pages = self._entries["slot"][places], self._entries["offset"][places].astype(np.int64)
        return Reaped(slots, pages, overflow=len(places) == len(self._flags))

    def skip(self) -> None:
        """Pass `SKIP` entries of a ring that KVM calls full and that has nothing to be reaped."""
        self._adrift = True
        self._pass(SKIP)

    def _dirty_entries(self) -> NDArray[np.bool_]:
        dirty: NDArray[np.bool_] = self._flags & _STATE == abi.KVM_DIRTY_GFN_F_DIRTY
        return dirty

    def _take(self) -> list[NDArray[np.int64]]:
        """The places of the dirty entries from ours to the first that is not; they are reaped."""
        places = []
        while True:
            at = self._next
            flags = self._flags[at : at + _CHUNK]
            other = np.flatnonzero(flags & _STATE != abi.KVM_DIRTY_GFN_F_DIRTY)
            count = int(other[0]) if len(other) else len(flags)
            if count:
                places.append(np.arange(at, at + count))
                self._pass(count)
            if len(other):
                return places

    def _pass(self, count: int) -> None:
        size = len(self._flags)
        self._flags[(self._next + np.arange(count)) % size] = abi.KVM_DIRTY_GFN_F_RESET
        self._next = (self._next + count) % size
