"""A broken `dirtybits` tracker that clears dirty bits without a lock: it reads entries, then stores them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vramtap.machine.paging import DIRTY, read_entries
from vramtap.pages import PageRuns
from vramtap.trackers.machine.dirtybits import DirtyBitsTracker

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from vramtap.machine.cpu import Cpu
    from vramtap.machine.memory import GuestMemory
    from vramtap.trackers.machine.known_tables import KnownTables


class InTwoSteps(DirtyBitsTracker):
    """Clears dirty bits in two steps. It loses writes unless the guest stands still.

    Args:
        between: Called between the read and the write.
    """

    def __init__(self, between: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self._between = between

    def _collect_dirty(
        self, memory: GuestMemory, cpu: Cpu, known: KnownTables, words: NDArray[np.uint64]
    ) -> None:
        entries = known.entry[: len(known.page)]
        before = read_entries(memory, entries)
        self._between()
        view = memory.ram.view(np.uint64)
        for entry, word in zip(entries.tolist(), before, strict=True):
            view[entry >> 3] = word & ~np.uint64(DIRTY)
        cpu.flush_tlb()
        self._backlog.add(PageRuns.from_pages(known.page[(before & np.uint64(DIRTY)) != 0]))
