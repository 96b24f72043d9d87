"""Compare DirtyRing with a model of the kernel's ring, including overruns."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramtap.linux.kvm_ring import ENTRY, SKIP, DirtyRing

DIRTY, RESET = 1, 2


class KernelRing:
    """Model of virt/kvm/dirty_ring.c: write position, reset position, and writes without a check."""

    def __init__(self, size: int) -> None:
        self.memory = bytearray(size * ENTRY.itemsize)
        self.entries = np.frombuffer(self.memory, dtype=ENTRY)
        self.size = size
        self.dirty_index = 0
        self.reset_index = 0

    @property
    def soft_full(self) -> bool:
        return self.dirty_index - self.reset_index >= self.size - SKIP

    def push(self, page: int) -> None:
        self.entries[self.dirty_index % self.size] = (DIRTY, 1, page)
        self.dirty_index += 1

    def reset(self) -> None:
        while self.entries["flags"][self.reset_index % self.size] & RESET:
            self.entries["flags"][self.reset_index % self.size] = 0
            self.reset_index += 1
        assert self.reset_index <= self.dirty_index, "the ring passed an entry that KVM has not written"


@given(
    size=st.sampled_from([128, 256, 2048]),
    batches=st.lists(st.tuples(st.integers(0, 3000), st.booleans()), max_size=30),
)
def test_overrun_ring_reports_overflow_and_guest_continues(
    size: int, batches: list[tuple[int, bool]]
) -> None:
    kernel = KernelRing(size)
    ring = DirtyRing(kernel.memory)
    written: set[int] = set()
    reported: set[int] = set()
    overflow = False
    page = 0
    for batch, collect in batches:
        exits = 0
        while kernel.soft_full:
            exits += 1
            assert exits <= 3100 // SKIP, "the guest never runs again"
            if not ring.waiting:
                ring.skip()
            reaped = ring.reap()
            reported |= set(reaped.pages.tolist())
            overflow |= reaped.overflow
            kernel.reset()
        for _ in range(batch):
            page += 1
            written.add(page)
            kernel.push(page)
        if collect:
            reaped = ring.reap()
            assert set(reaped.slots.tolist()) <= {1}
            kernel.reset()
            assert not ring.waiting
            reported |= set(reaped.pages.tolist())
            assert reported <= written
            assert reported == written or overflow or reaped.overflow
            written, reported, overflow = set(), set(), False


@given(st.lists(st.integers(0, 100), max_size=20))
def test_ring_without_overrun_reports_each_page_once_in_order(batches: list[int]) -> None:
    kernel = KernelRing(128)
    ring = DirtyRing(kernel.memory)
    page = 0
    for batch in batches:
        pages = [page + n for n in range(batch)]
        page += batch
        for number in pages:
            kernel.push(number)
        assert ring.waiting == bool(pages)
        reaped = ring.reap()
        assert reaped.pages.tolist() == pages
        assert not reaped.overflow
        kernel.reset()
        assert kernel.reset_index == kernel.dirty_index


@pytest.mark.parametrize("over", [0, 1, 63, 64, 127, 128, 129, 500])
def test_ring_with_only_dirty_entries_overflows_and_recovers(over: int) -> None:
    kernel = KernelRing(128)
    ring = DirtyRing(kernel.memory)
    for page in range(128 + over):
        kernel.push(page)
    assert ring.reap().overflow
    kernel.reset()
    while kernel.soft_full:
        assert not ring.waiting
        ring.skip()
        kernel.reset()
    for page in range(10):
        kernel.push(page)
    reaped = ring.reap()
    assert sorted(reaped.pages.tolist()) == list(range(10))
    assert not reaped.overflow
    kernel.reset()
    assert kernel.reset_index == kernel.dirty_index
