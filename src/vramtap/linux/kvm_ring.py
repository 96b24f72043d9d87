"""DirtyRing: KVM's ring of dirty pages of a vCPU, in shared memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from vramtap.linux import kvm_abi as abi

if TYPE_CHECKING:
    import mmap

    from numpy.typing import NDArray

ENTRY: Final = np.dtype([("flags", np.uint32), ("slot", np.uint32), ("offset", np.uint64)])
"""`struct kvm_dirty_gfn` (linux/kvm.h)."""
SKIP: Final = 64
"""Entries that KVM has written at least when it reports a full ring. It keeps KVM_DIRTY_RING_RSVD_ENTRIES
free (include/linux/kvm_dirty_ring.h), and no ring is smaller than twice that."""
_CHUNK: Final = 1024
_STATE: Final = abi.KVM_DIRTY_GFN_F_DIRTY | abi.KVM_DIRTY_GFN_F_RESET


@dataclass(frozen=True, slots=True)
class Reaped:
    """Entries reaped from a ring.

    Args:
        slots: Memory slot of each page, shape `(n,)`.
        pages: Page index in that slot, shape `(n,)`; a page may occur more than once.
        overflow: Every entry was dirty: KVM may have overwritten entries before they were read.
    """

    slots: NDArray[np.uint32]
    pages: NDArray[np.int64]
    overflow: bool


class DirtyRing:
    """The dirty ring of one vCPU.

    Kernel: Documentation/virt/kvm/api.rst, KVM_CAP_DIRTY_LOG_RING; since 5.11.
    Cost: none to poll; about 0.1 ms to reap 4,096 entries.

    Facts. An entry is clean (flags 00), dirty (01) or reaped (1x). KVM makes clean entries dirty, in order.
    vramtap makes dirty entries reaped, in the same order and without gaps. KVM_RESET_DIRTY_RINGS makes reaped
    entries clean, from where it stopped last to the first that is not reaped, and protects their pages again.
    Entries reach the ring when the vCPU leaves the guest, at the latest (Intel's page-modification log is a
    buffer in between). KVM stops the guest some entries before the ring is full, and does not check again:
    where it emulates stores, each store is an entry, and several hundred entries follow before the next
    check. They overrun the ring (measured on Linux 6.18, which warns once and overwrites the oldest). From
    then on KVM writes as many entries ahead of its reset position as were overrun, for ever. It may report a
    full ring when every entry is clean.

    Consequences. Reaping is complete only while the vCPU is stopped. A ring with only dirty entries proves
    nothing; a ring with a clean entry was not overrun since the last reset. After an overrun, dirty entries
    may follow clean ones, and those clean entries never become dirty by themselves.

    Decision. A ring with only dirty entries is an overflow, and makes the ring *adrift*. While it is adrift,
    `reap` also marks clean entries before dirty ones as reaped, so that KVM's reset position catches up. It
    never passes an entry that KVM has not written: a dirty entry behind it proves that KVM has. If KVM
    reports a full ring without a dirty entry, `skip` passes as many entries as a full ring has at least. Read
    the pages after the reset, never before.

    Args:
        mapping: The pages of the ring, shared with the kernel; kept as long as this object.
    """

    def __init__(self, mapping: mmap.mmap | bytearray) -> None:
        self._entries: NDArray[np.void] = np.frombuffer(mapping, dtype=ENTRY)
        self._flags: NDArray[np.uint32] = self._entries["flags"]
        self._next = 0
        self._adrift = False

    @property
    def waiting(self) -> bool:
        """Whether the ring has entries to reap; changes nothing, and any thread may read it."""
        if self._adrift:
            return bool(self._dirty_entries().any())
        return int(self._flags[self._next]) & _STATE == abi.KVM_DIRTY_GFN_F_DIRTY

    def reap(self) -> Reaped:
        """Reap all dirty entries. The vCPU must be stopped, and the rings be reset before its next run."""
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
            # After less than a whole circle the position is where KVM writes next, else before that.
            self._adrift = passed == len(self._flags)
        places = np.concatenate(taken) if taken else np.empty(0, dtype=np.int64)
        slots, pages = self._entries["slot"][places], self._entries["offset"][places].astype(np.int64)
        return Reaped(slots, pages, overflow=len(places) == len(self._flags))

    def skip(self) -> None:
        """Pass `SKIP` entries of a ring that KVM reports full and that has no dirty entry."""
        self._adrift = True
        self._pass(SKIP)

    def _dirty_entries(self) -> NDArray[np.bool_]:
        dirty: NDArray[np.bool_] = self._flags & _STATE == abi.KVM_DIRTY_GFN_F_DIRTY
        return dirty

    def _take(self) -> list[NDArray[np.int64]]:
        """Reap the dirty entries up to the first that is not dirty; return their indices in the ring."""
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
        """Mark the next `count` entries as reaped."""
        size = len(self._flags)
        self._flags[(self._next + np.arange(count)) % size] = abi.KVM_DIRTY_GFN_F_RESET
        self._next = (self._next + count) % size
