"""Tracker `dirtybits`: reads and clears the dirty bits of the guest's own page-table entries.

Research, for the built-in VM only. The mail that vramtap grew out of proposes to "test-and-clear the dirty
bits of the PTEs that map it". This tracker does so, and adds what makes the answer complete.

Facts. A CPU that stores sets D in the entry that mapped the page. The entries that map a frame therefore say
whether it was written, provided that all of them are known. A walk of all tables finds them. But a guest may
add a mapping, store through it and remove it again between two scans, and no later walk shows it. The tables
are pages too: to change one, a guest stores into it through an entry that maps the table, and that sets D in
this entry. (A log of all writes to tables would not help: the CPU itself writes accessed and dirty bits there
all the time. Those writes go through no mapping and set no D.)

Consequences. The tracker watches the extent and every table reachable from CR3. The last walk gives the
entries that map either. As long as no entry that maps a table is dirty, no table has changed since that walk,
and the known entries are still all entries: the first store that could change this goes through a known
entry, wherever the table lies and whatever mapping the guest adds next. The device log shows what devices
store into a table in video RAM.

Decision. The tracker stops the guest once for each scan. It compares CR3, reads the device log and the
entries, clears dirty bits, and flushes the TLB if it cleared one, so that the next store sets the bit again.
If CR3 differs, or a table was or may have been written, it walks the tables again. It then flushes the TLB
too, which may hold a mapping that is no longer in the tables, and reports all pages as dirty: a mapping that
is gone may have been used since the last scan. A page stays in doubt while its mapping cannot be followed:
the page is mapped more than once, or by a large page, or is itself a table, which the CPU writes without a
mapping.

A page that is mapped nowhere cannot be written until the tables change, so it is not dirty. An extent of
which no page is mapped is in doubt as a whole: whatever draws there uses a way that this tracker does not
see.

A guest is always in doubt if one large page maps both its tables and its data, because every store then hits
a page that holds tables. This is correct, and costs as much as `compare`. The tracker follows a guest whose
tables are mapped by entries of their own.
"""

from __future__ import annotations

import logging
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING, Final

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
from vramtap.trackers.backlog import Backlog
from vramtap.trackers.base import AllDirty, TrackerDefaults, Waker, started
from vramtap.trackers.machine.known_tables import NO_DOUBT, KnownTables, describe_change

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from vramtap.machine.cpu import Cpu
    from vramtap.machine.memory import GuestMemory
    from vramtap.memory.extent import Extent

log: logging.Logger = logging.getLogger(__name__)

_DIRTY: Final = np.uint64(DIRTY)
_GUEST_BITS: Final = np.uint64(~(ACCESSED | DIRTY) & (1 << 64) - 1)
"""The bits of an entry that only the guest changes."""
MAX_RETRY_COLLECTS: Final = 64
"""Most collects between two walks while the tables cannot be walked completely: about a second of polling."""
_trackers: Final[weakref.WeakValueDictionary[int, DirtyBitsTracker]] = weakref.WeakValueDictionary()
"""The tracker that reads a machine's dirty bits, by `id` of the machine's memory. A second one would lose
pages."""

STOPS_KEPT: Final = 64
"""Stop times of the guest that are kept for the reported median."""


class DirtyBitsTracker(TrackerDefaults):
    """Follows writes by the dirty bits of the guest's page-table entries.

    Research, for the built-in VM only: each scan stops the guest and needs access to its page tables. The
    guest can notice one effect: dirty bits of these entries are clear that it did not clear.

    Limits. Three things between two scans leave no trace: the guest loads other tables, stores and loads the
    first ones again; it turns paging off, stores and turns it on again; it clears, in its own tables, the
    dirty bits that a store into a table has set. Nor does the tracker see stores that go through neither a
    page table nor a device of the machine (KVM's paravirtual clock, if a guest enables it). A guest that does
    this spoils only its own picture.

    Attributes:
        virtual: Virtual address of the extent's first mapped page, by the last walk; None if no page is
            mapped.
        walks: Number of walks through the tables.
        stops_us: How long each of the last scans stopped the guest, microseconds.
    """

    name: Final = "dirtybits"
    prefers_window: Final = False

    def __init__(self) -> None:
        self._extent: Extent | None = None
        self.virtual: int | None = None
        self.walks: int = 0
        self.stops_us: deque[float] = deque(maxlen=STOPS_KEPT)

    def start(self, extent: Extent) -> None:
        """Start recording what devices write. The first `collect` scans the guest.

        Raises:
            VramtapError: the extent is not video RAM of the built-in VM, or another tracker reads the same
                dirty bits.
        """
        self.stop()
        space, address = guest_space(extent)
        memory = space.machine.memory
        if id(memory) in _trackers:
            raise VramtapError(
                "dirty bits",
                str(extent),
                "another tracker reads and clears them",
                "use --tracker log for one of the two",
            )
        _trackers[id(memory)] = self
        self._machine = space.machine
        self._frame = address // PAGE_SIZE
        self._devices = memory.log_device_writes()
        self._extent, self._pages = extent, extent.pages
        self._known: KnownTables | None = None
        self._retry_after, self._retry_in = 1, 0
        self._backlog = Backlog(extent.pages)

    @property
    def read_from(self) -> Extent:
        """The extent itself."""
        return started(self._extent, self.name)

    def collect(self, window: tuple[int, int] | None = None) -> PageRuns | AllDirty:
        """Stop the guest, read and clear the dirty bits; see `Tracker.collect`."""
        extent = self.read_from
        first, last = window or (0, extent.pages)
        machine = self._machine
        with machine.paused():
            began_ns = time.perf_counter_ns()
            try:
                self._scan(machine.memory, machine.cpu)
            except BaseException:
                # The scan may have cleared dirty bits without recording them.
                self._known = None
                self._lose_all()
                raise
            self.stops_us.append((time.perf_counter_ns() - began_ns) / 1000)
        answer = self._backlog.take((first, last))
        if isinstance(answer, AllDirty) and self._known is not None:
            return self._known.doubt_in(first, last) or answer
        return answer

    def restore(self, runs: PageRuns) -> None:
        """Report these pages again."""
        self._backlog.add(runs)

    def wake(self, callback: Callable[[], None]) -> Waker | None:
        """Return None: no event signals a dirty bit, so this tracker must be polled."""
        return None

    def stop(self) -> None:
        """Set again the dirty bits that the tracker cleared, where the tables are still the known ones."""
        if self._extent is None:
            return
        self._extent = None
        machine = self._machine
        try:
            with machine.paused():
                self._scan(machine.memory, machine.cpu)
                if self._known is not None:
                    set_dirty(machine.memory, self._known.entry[self._known.cleared])
        except TargetGone:
            log.debug("%s: the guest has ended; its dirty bits stay as they are", self.name)
        finally:
            self._devices.close()
            _trackers.pop(id(machine.memory), None)

    # While the guest is stopped

    def _scan(self, memory: GuestMemory, cpu: Cpu) -> None:
        """Bring `_backlog` and `_known` up to date."""
        stored = self._devices.take()
        if stored:
            offset = self._frame - VRAM_FRAME
            self._backlog.add(stored.clip(offset, offset + self._pages).shift(-offset))
        root = cpu.registers().cr3 & ADDRESS
        known = self._known
        if known is not None and not known.complete and self._retry_in > 0:
            self._retry_in -= 1
            self._lose_all()
            return
        if known is not None and known.root == root:
            words = read_entries(memory, known.entry)
            changed = self._tables_changed(known, words, stored)
        else:
            changed = True
        if known is None or changed:
            # The known entries are stale: a frame that was a table may hold data now. So none of them is
            # cleared.
            known = self._walk(memory, root)
            cpu.flush_tlb()
        else:
            self._collect_dirty(memory, cpu, known, words)
        if known.complete and known.mapped:
            self._backlog.lose(self._backlog.why, PageRuns.from_mask(known.doubt != NO_DOUBT))
        else:
            self._lose_all()

    def _lose_all(self) -> None:
        """Report all pages, for the reason that was last given."""
        self._backlog.lose(self._backlog.why)

    def _tables_changed(self, known: KnownTables, words: NDArray[np.uint64], stored: PageRuns) -> bool:
        """Return whether a table was, or may have been, written since the last scan.

        The dirty bits of the entries that map tables answer this. The entries themselves are compared as
        well: if a guest removes the very entry through which it stores, the dirty bit disappears with the
        entry.

        Args:
            known: By the last walk.
            words: The entries of `known.entry` as they are now.
            stored: Pages of the video RAM that devices have written.
        """
        if not known.complete:
            return True
        if (words[len(known.page) :] & _DIRTY).any() or ((words ^ known.guest_bits) & _GUEST_BITS).any():
            return True
        if not stored:
            return False
        in_vram = known.tables[known.tables >= VRAM_FRAME] - VRAM_FRAME
        return bool(stored.to_mask(VRAM_BYTES // PAGE_SIZE)[in_vram].any())

    def _collect_dirty(
        self, memory: GuestMemory, cpu: Cpu, known: KnownTables, words: NDArray[np.uint64]
    ) -> None:
        """Record the dirty pages of the extent, and clear their dirty bits."""
        dirty = np.flatnonzero(words[: len(known.page)] & _DIRTY)
        if len(dirty):
            fetch_and_clear_dirty(memory, known.entry[dirty])
            cpu.flush_tlb()
            known.cleared[dirty] = True
            self._backlog.add(PageRuns.from_pages(known.page[dirty]))

    def _walk(self, memory: GuestMemory, root: int) -> KnownTables:
        """Walk the tables, and clear the dirty bits of the entries to be followed from now on."""
        self.walks += 1
        before, pages = self._known, self._pages
        found = mappings(memory, root, self._frame, pages)
        known = KnownTables.from_walk(found, root, self._frame, pages)
        self._known = known
        words = fetch_and_clear_dirty(memory, known.entry)
        known.guest_bits = words & _GUEST_BITS
        known.cleared = (words & _DIRTY) != 0
        if before is not None:
            known.cleared |= np.isin(known.entry, before.entry[before.cleared])
            self._backlog.lose(describe_change(before, known))
        else:
            self._lose_all()
        self._retry_after = 1 if known.complete else min(2 * self._retry_after, MAX_RETRY_COLLECTS)
        self._retry_in = 0 if known.complete else self._retry_after
        self.virtual = int(known.virtual[known.page[0]]) if len(known.page) else None
        return known
