"""Tracker `dirtybits`: the guest's own page-table entries say which frames were stored to.

The mail's "test-and-clear the dirty bits of the PTEs that map it", and what makes the answer trustworthy:

Facts. A CPU that stores sets D in the entry that mapped the page. So a look at the entries that map a frame
tells whether it was written, if those are all the entries that map it. They are found by going through all
tables; but a guest may make another mapping, store through it and take it away again between two looks, and
no look at the tables would ever show it. The tables are pages too, though: to change one, a guest stores
into it through an entry that maps it, and that sets D there. A log of writes would not do: the CPU marks
entries accessed and dirty all the time, which are writes to tables, but not by a mapping and without D.

Consequences. What is watched is the extent and every table reachable from CR3; the entries that map either
are known from the last walk. As long as none of those that map a table is dirty, no table has changed since
the walk, so the entries known are still all there are: the first store that could change that goes through
an entry we know, wherever the table lies and whatever mapping is made after it. What devices store into a
table in video RAM is in their log.

Decision. In one stop: CR3, the devices' log and the entries are looked at, dirty bits are cleared, and the
TLB is flushed if one was, so that the next store leaves its mark again. If CR3 differs, or a table was or
may have been stored to, the tables are walked again (and the TLB flushed: it may hold a mapping that is in
the tables no more), and everything since the last look is in doubt, for there may have been a mapping that
is gone. A page whose mapping cannot be followed stays in doubt: mapped more than once, by a large page, or
itself a table, where the CPU writes without a mapping.

A page mapped nowhere cannot be stored to until the tables change: it is simply not dirty. But an extent of
which nothing is mapped is in doubt as a whole: whoever draws there draws in a way that is not seen here.

A guest whose stores always hit a page-table page, since one large page maps tables and data alike, is
always in doubt. That is correct, and costs it what `compare` costs; to be followed it has to map its tables
by entries of their own.
"""

from __future__ import annotations

import logging
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from vramtap.errors import TargetGone, VramtapError
from vramtap.machine.layout import VRAM_BYTES
from vramtap.machine.paging import (
    ACCESSED,
    ADDRESS,
    DIRTY,
    VRAM_FRAME,
    fetch_and_clear_dirty,
    read_entries,
    set_dirty,
)
from vramtap.machine.paging_reverse import mappings
from vramtap.machine.space import guest_space
from vramtap.pages import PAGE_SIZE, PageRuns
from vramtap.trackers.base import AllDirty, Reason, TrackerDefaults, Waker
from vramtap.trackers.machine.known_tables import NO_DOUBT, KnownTables, change, understood

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from vramtap.machine.cpu import Cpu
    from vramtap.machine.memory import GuestMemory
    from vramtap.memory.extent import Extent

log = logging.getLogger(__name__)

_DIRTY: Final = np.uint64(DIRTY)
_MEANING: Final = np.uint64(~(ACCESSED | DIRTY) & (1 << 64) - 1)
"""The bits of an entry that only the guest changes."""
MAX_PATIENCE: Final = 64
"""Collects between two walks, at most, while there are too many tables: about a second of polling."""
_readers: Final[weakref.WeakValueDictionary[int, DirtyBitsTracker]] = weakref.WeakValueDictionary()
"""Who reads the dirty bits of a machine, by the `id` of its memory: there is one such log, so one reader."""

STOPS_KEPT: Final = 64
"""Stop times of the guest that are kept for the reported median."""


class DirtyBitsTracker(TrackerDefaults):
    """Follows writes by the dirty bits of the guest's page-table entries.

    For the embedded machine only: the guest is stopped for each look, and its tables must be at hand. What
    the guest sees of it: dirty bits of these entries that it did not clear are clear.

    Limits. Between two looks a guest could load other tables and come back, or turn paging off and on, and
    store meanwhile; or clear, in its own tables, the dirty bits that would have told of it. None of these
    leaves a trace. Stores that go through no page table and no device of ours are not seen either (KVM's
    paravirtual clock, if a guest asks for it). A guest that does such things spoils its own picture only.

    Attributes:
        virtual: Where the guest maps the extent's first mapped page, as found last; None if nowhere.
        walks: How often the tables were gone through.
        stops_us: How long the guest was kept from running, the last looks, microseconds.
    """

    name: Final = "dirtybits"
    prefers_window: Final = False
    precision: Final[Literal["exact", "superset"]] = "exact"

    def __init__(self) -> None:
        self._extent: Extent | None = None
        self.virtual: int | None = None
        self.walks = 0
        self.stops_us: deque[float] = deque(maxlen=STOPS_KEPT)

    def start(self, extent: Extent) -> None:
        """Start noting what devices write; the guest is first looked at by `collect`.

        Raises:
            VramtapError: it is not video RAM of the embedded machine.
        """
        self.stop()
        space, address = guest_space(extent)
        memory = space.machine.memory
        if id(memory) in _readers:
            raise VramtapError(
                "dirty bits",
                str(extent),
                "another tracker reads and clears them",
                "use --tracker log for one of the two",
            )
        _readers[id(memory)] = self
        self._machine = space.machine
        self._frame = address // PAGE_SIZE
        self._devices = memory.follow_devices()
        self._extent = extent
        self._known: KnownTables | None = None
        self._patience, self._wait = 1, 0
        self._pending = np.zeros(extent.pages, dtype=np.bool_)
        self._unknown = np.ones(extent.pages, dtype=np.bool_)
        self._why = AllDirty(Reason.FIRST)

    @property
    def read_from(self) -> Extent:
        """The armed extent itself."""
        if self._extent is None:
            raise VramtapError("source", self.name, "not armed", "call arm() first")
        return self._extent

    def collect(self, window: tuple[int, int] | None = None) -> PageRuns | AllDirty:
        """Stop the guest, read and clear the dirty bits; see `Tracker.collect`."""
        extent = self.read_from
        first, last = window or (0, extent.pages)
        machine = self._machine
        with machine.paused():
            began_ns = time.perf_counter_ns()
            try:
                self._look(machine.memory, machine.cpu)
            except BaseException:
                # Marks may have been cleared and not kept.
                self._known = None
                self._unknown[:] = True
                raise
            self.stops_us.append((time.perf_counter_ns() - began_ns) / 1000)
        written = self._pending[first:last].copy()
        self._pending[first:last] = False
        if self._unknown[first:last].any():
            self._unknown[first:last] = False
            return (self._known and self._known.verdict(first, last)) or self._why
        return PageRuns.from_mask(written).shift(first)

    def restore(self, runs: PageRuns) -> None:
        """Report these pages again."""
        self._pending |= runs.to_mask(self.read_from.pages)

    def wake(self, callback: Callable[[], None]) -> Waker | None:
        """A dirty bit tells nobody that it was set: it must be asked for."""
        return None

    def stop(self) -> None:
        """Set again the dirty bits that were cleared, where the tables are still those we know."""
        if self._extent is None:
            return
        self._extent = None
        machine = self._machine
        try:
            with machine.paused():
                self._look(machine.memory, machine.cpu)
                if self._known is not None:
                    set_dirty(machine.memory, self._known.entry[self._known.cleared])
        except TargetGone:
            log.debug("%s: the guest has ended; its dirty bits are left as they are", self.name)
        finally:
            machine.memory.unfollow(self._devices)
            _readers.pop(id(machine.memory), None)

    # While the guest is stopped

    def _look(self, memory: GuestMemory, cpu: Cpu) -> None:
        """Bring `_pending`, `_unknown` and `_known` up to date."""
        stored = self._devices.take()
        if stored:
            offset = self._frame - VRAM_FRAME
            pages = len(self._pending)
            self._pending |= stored.clip(offset, offset + pages).shift(-offset).to_mask(pages)
        root = cpu.registers().cr3 & ADDRESS
        known = self._known
        if known is not None and not known.complete and self._wait > 0:
            self._wait -= 1
            self._unknown[:] = True
            return
        if known is not None and known.root == root:
            words = read_entries(memory, known.entry)
            changed = self._tables_changed(known, words, stored)
        else:
            changed = True
        if known is None or changed:
            # Nothing is cleared by what was known: a frame that was a table may hold data now.
            known = self._walk(memory, root)
            cpu.flush_tlb()
        else:
            self._harvest(memory, cpu, known, words)
        if known.complete and known.mapped:
            self._unknown |= known.doubt != NO_DOUBT
        else:
            self._unknown[:] = True

    def _tables_changed(self, known: KnownTables, words: NDArray[np.uint64], stored: PageRuns) -> bool:
        """Whether a table was, or may have been, stored to since the last look.

        The dirty bits of the entries that map tables say so. That entries still mean what they did is asked
        too: a guest that takes away the entry it does this with takes the dirty bit with it.
        """
        if not known.complete:
            return True
        if (words[len(known.page) :] & _DIRTY).any() or ((words ^ known.meaning) & _MEANING).any():
            return True
        if not stored:
            return False
        in_vram = known.tables[known.tables >= VRAM_FRAME] - VRAM_FRAME
        return bool(stored.to_mask(VRAM_BYTES // PAGE_SIZE)[in_vram].any())

    def _harvest(self, memory: GuestMemory, cpu: Cpu, known: KnownTables, words: NDArray[np.uint64]) -> None:
        """Take the dirty bits of the extent, which `words` shows, and let the next store set them again."""
        dirty = np.flatnonzero(words[: len(known.page)] & _DIRTY)
        if len(dirty):
            fetch_and_clear_dirty(memory, known.entry[dirty])
            cpu.flush_tlb()
            known.cleared[dirty] = True
            self._pending[known.page[dirty]] = True

    def _walk(self, memory: GuestMemory, root: int) -> KnownTables:
        """Go through the tables, and clear what is to be followed from here on."""
        self.walks += 1
        before, pages = self._known, len(self._pending)
        known = understood(mappings(memory, root, self._frame, pages), root, self._frame, pages)
        self._known = known
        words = fetch_and_clear_dirty(memory, known.entry)
        known.meaning = words & _MEANING
        known.cleared = (words & _DIRTY) != 0
        if before is not None:
            known.cleared |= np.isin(known.entry, before.entry[before.cleared])
            self._why = change(before, known)
        self._unknown[:] = True
        self._patience = 1 if known.complete else min(2 * self._patience, MAX_PATIENCE)
        self._wait = 0 if known.complete else self._patience
        self.virtual = int(known.virtual[known.page[0]]) if len(known.page) else None
        return known
