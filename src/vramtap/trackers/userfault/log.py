"""Tracker `log`: the kernel write-protects the pages, marks what is written, and one call fetches the marks.

The two-phase scan, and the order of everything here:

Facts. A write to a protected page faults; the kernel marks the page written, makes it writable and lets the
writer go on (about 0.75 us, once a page and round). PAGEMAP_SCAN reads the marks, and with WP_MATCHING
protects what it returns in the same step, under the page-table lock, so that no write falls between. With
WP_MATCHING the kernel also tells the MMU notifiers about the whole range asked for, written or not, and KVM
then drops its mappings of those guest pages: every poll would cost a guest that draws nothing. A scan that
only reads tells nobody. A mapping that has lost its registration (unmapped and mapped anew) makes
CHECK_WPASYNC fail with EPERM; a hole is skipped without a word, and so is memory that was moved out of the
range and is written elsewhere.

Consequences. Polling must only read; protecting again must be asked for only where something was hit; and no
answer proves anything unless the whole range is known to be mapped.

Decision. Phase one reads. Then the mapping is asked about (one microsecond). If phase one hit something,
phase two scans and protects around the hits, and what phase two returned, not phase one, is the answer:
pages outside keep their marks for the next round. The caller reads pixels after, so a write between phase
two and the read is marked again: reported twice, never lost.
"""

from __future__ import annotations

import itertools
import logging
import os
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from vramtap.errors import KernelError, VramtapError
from vramtap.linux.inject import Fetched, fetch_userfaultfd
from vramtap.linux.pagemap import Pagemap
from vramtap.linux.procfs import MapsQuery
from vramtap.linux.userfaultfd import LOG_FEATURES, Userfaultfd
from vramtap.machine.space import GuestSpace
from vramtap.pages import FEW, NO_PAGES, PAGE_SIZE, PageRuns
from vramtap.trackers.base import AllDirty, Reason, TrackerDefaults, Waker
from vramtap.trackers.machine.wake import MachineWatch
from vramtap.trackers.poller import IDLE_INTERVAL_S, IdleWatch

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from vramtap.memory.extent import Extent

log = logging.getLogger(__name__)

MAX_PROTECT_CALLS: Final = 16
"""Calls of phase two a collect makes at most; hits are bridged over their smallest gaps to get there.

Each call costs a remote TLB flush (about 150 us measured from outside) whatever its size, so few wide calls
are cheaper for us, while every page bridged may cost a KVM guest a fault (about 1 us): at 16 calls both stay
near 2 ms for the worst scatter.
"""
MAX_GAP_PAGES: Final = 64
"""A gap up to this many pages is always bridged: 64 faults (64 us) cost less than another call (150 us)."""


MACHINE_PATIENCE_S: Final = 0.03
"""Two looks of a tap: to set and take back a watch of the machine costs 290 us, as much as three looks."""
_NOWHERE: Final = np.empty((0, 2), dtype=np.int64)

HOLE_EVERY: Final = 36
"""While idle the mapping is asked about at every 36th question, about once a second: it never goes away in
practice, and costs a microsecond on warm caches but twenty on cold ones."""


class LogTracker(TrackerDefaults):
    """Follows writes with userfaultfd's asynchronous write protection and PAGEMAP_SCAN.

    Needs Linux 6.7 and, for another process, ptrace rights at `start` only. Sees what is written through the
    process's page tables, by itself, the kernel or KVM. Does not see DMA into memory that was pinned before
    (devices assigned to a guest, registered buffers of io_uring), nor what reaches shared memory and mapped
    files by another way: another process's mapping, write(2), holes punched. Memory given back
    (MADV_DONTNEED) is reported without a write, hence `superset`.

    Args:
        allow_filtered: Inject into a target that has a seccomp filter; see `linux.inject`.
        latency_s: Between two questions while idle, seconds.
    """

    name: Final = "log"
    prefers_window: Final = False
    precision: Final[Literal["exact", "superset"]] = "superset"

    def __init__(self, *, allow_filtered: bool = False, latency_s: float = IDLE_INTERVAL_S) -> None:
        self._allow_filtered = allow_filtered
        self._latency_s = latency_s
        self._extent: Extent | None = None
        self._close: list[Callable[[], None]] = []
        self._unknown = NO_PAGES
        self._unknown_why = AllDirty(Reason.FIRST)
        self._restored = NO_PAGES
        self.stopped_us = 0.0
        """How long a thread of the target stood still while the log was attached, in microseconds."""

    def start(self, extent: Extent) -> None:
        """Protect the extent.

        Raises:
            Refused: no ptrace rights, or no process is known whose writes could be logged.
            KernelError: the kernel lacks the interface, or the memory is of a kind it cannot protect.
        """
        self.arm_fetched(extent, fetch_userfaultfd)

    def arm_fetched(self, extent: Extent, fetch: Callable[..., Fetched]) -> Fetched | None:
        """Protect the extent, of another process with what `fetch(pid, allow_filtered=...)` brings out of it.

        Returns:
            What was fetched, its first descriptor now ours; None for this process.

        Raises:
            VramtapError: as `start`.
        """
        self.stop()
        fetched = None
        pid = extent.space.pid
        if pid is None:
            raise VramtapError(
                "log",
                str(extent),
                "no process is known whose writes could be logged",
                "use --tracker compare",
            )
        own = pid == os.getpid()
        if own:
            self._uffd = Userfaultfd.of_self()
        else:
            fetched = fetch(pid, allow_filtered=self._allow_filtered)
            self._uffd, self.stopped_us = Userfaultfd(fetched.fd, f"pid {pid}"), fetched.stopped_us
        self._close.append(self._uffd.close)
        try:
            self._pagemap = Pagemap(None if own else pid)
            self._close.append(self._pagemap.close)
            self._maps = MapsQuery(pid)
            self._close.append(self._maps.close)
            # Not opened when the idle watch starts: there may be no descriptor left then.
            self._idle_maps = MapsQuery(pid)
            self._close.append(self._idle_maps.close)
            self._uffd.api(LOG_FEATURES)
            self._uffd.register(extent.address, extent.end)
            self._uffd.protect(extent.address, extent.end)
        except BaseException:
            self.stop()
            if fetched is not None and fetched.watchdog is not None:
                fetched.watchdog.close()
            raise
        self._extent = extent
        self._unknown, self._restored = PageRuns.full(extent.pages), NO_PAGES
        self._unknown_why = AllDirty(Reason.FIRST)
        return fetched

    @property
    def read_from(self) -> Extent:
        """The armed extent itself."""
        if self._extent is None:
            raise VramtapError("source", "log", "not armed", "call arm() first")
        return self._extent

    def collect(self, window: tuple[int, int] | None = None) -> PageRuns | AllDirty:
        """Read the log of the window and clear it; see `Tracker.collect`."""
        return self.collect_but(NO_PAGES, window)

    def collect_but(self, left_open: PageRuns, window: tuple[int, int] | None = None) -> PageRuns | AllDirty:
        """The same, but for some pages: they are not protected again, and not reported.

        Args:
            left_open: What stays as it is. Some of it may be protected again and reported all the same, where
                a call for each of many small pieces around it would cost more.
            window: As for `collect`.
        """
        extent = self.read_from
        first, last = window or (0, extent.pages)
        start, end = extent.address + first * PAGE_SIZE, extent.address + last * PAGE_SIZE
        hits = self._pagemap.written(start, end, protect=False)
        if hits is None:
            return self._renew(extent, first, last)
        if not self._maps.mapped(start, end):
            return self._lost(extent, AllDirty(Reason.UNMAPPED, f"{extent} has a hole"))
        found = NO_PAGES
        if len(hits) and left_open:
            hits = _without(hits, left_open, extent.address)
        if len(hits):
            parts = []
            for lower, upper in bridge(hits, left_open, extent.address):
                try:
                    part = self._pagemap.written(lower, upper, protect=True)
                except VramtapError:
                    # The marks that were cleared so far are lost with this answer.
                    self._unknown = PageRuns.full(extent.pages)
                    raise
                if part is None:
                    return self._renew(extent, first, last)
                parts.append(part)
            found = _pages(parts[0] if len(parts) == 1 else np.concatenate(parts), extent.address)
        return self._with_pending(found, first, last)

    def pending(self, window: tuple[int, int] | None = None) -> PageRuns | AllDirty:
        """What is to be reported of the window whatever the log says; it is not asked."""
        first, last = window or (0, self.read_from.pages)
        return self._with_pending(NO_PAGES, first, last)

    @property
    def whole(self) -> bool:
        """Whether there is memory behind every page of the extent.

        Raises:
            TargetGone: whose memory it is has ended.
        """
        extent = self.read_from
        return self._maps.mapped(extent.address, extent.end)

    @property
    def has_pending(self) -> bool:
        """Whether some page is to be reported whatever the log says."""
        return bool(self._unknown or self._restored)

    def _with_pending(self, found: PageRuns, first: int, last: int) -> PageRuns | AllDirty:
        if self._unknown and self._unknown.clip(first, last):
            self._unknown = self._unknown.difference(PageRuns([(first, last)]))
            self._take_restored(first, last)
            return self._unknown_why
        return found.union(self._take_restored(first, last))

    def _take_restored(self, first: int, last: int) -> PageRuns:
        if not self._restored:
            return NO_PAGES
        taken = self._restored.clip(first, last)
        self._restored = self._restored.difference(taken)
        return taken

    def _lost(self, extent: Extent, answer: AllDirty) -> AllDirty:
        """Nothing is vouched for any more, inside the window or outside."""
        self._unknown, self._unknown_why = PageRuns.full(extent.pages), answer
        return answer

    def _renew(self, extent: Extent, first: int, last: int) -> AllDirty:
        """Register and protect what lies at the extent's addresses now."""
        self._uffd.unregister(extent.address, extent.end)
        answer = self.resume(AllDirty(Reason.REMAPPED, f"{extent} was mapped anew; protected again"))
        if answer.reason is not Reason.UNMAPPED:
            self._unknown = self._unknown.difference(PageRuns([(first, last)]))
        return answer

    def suspend(self, why: AllDirty) -> None:
        """Lift all protection and forget the log; until `resume` only `pending` may be called.

        Args:
            why: What the next answer about each page will be.
        """
        extent = self.read_from
        self._uffd.unregister(extent.address, extent.end)
        self._lost(extent, why)

    def resume(self, why: AllDirty) -> AllDirty:
        """Protect again what lies at the extent's addresses now; nothing is known of what was written before.

        Args:
            why: What the next answer about each page will be.

        Returns:
            It, or that there is memory no more at some of the addresses.
        """
        extent = self.read_from
        try:
            self._uffd.register(extent.address, extent.end)
            self._uffd.protect(extent.address, extent.end)
        except KernelError as error:
            return self._lost(extent, AllDirty(Reason.UNMAPPED, str(error)))
        return self._lost(extent, why)

    def restore(self, runs: PageRuns) -> None:
        """Report these pages again."""
        self._restored = self._restored.union(runs)

    def rehearse(self, page: int) -> None:
        """Do what a look does that finds this one page written, for who measures it."""
        start = self.read_from.address + page * PAGE_SIZE
        self._uffd.lift(start, start + PAGE_SIZE)
        self._pagemap.written(start, start + PAGE_SIZE, protect=True)
        self.restore(PageRuns([(page, page + 1)]))

    def scan(self) -> None:
        """Do what a look does that finds nothing, for who measures it."""
        extent = self.read_from
        self._pagemap.written(extent.address, extent.end, protect=False)

    @property
    def idle_after_s(self) -> float:
        """Of the embedded machine's memory short: its own halts wake us, and cost nothing."""
        return MACHINE_PATIENCE_S if isinstance(self.read_from.space, GuestSpace) else float("inf")

    def wake(self, callback: Callable[[], None]) -> Waker | None:
        """Ask from a thread: see `IdleWatch` and `MachineWatch`. None where there can be no thread."""
        extent = self.read_from
        if self.has_pending:
            # There is something to report already: it needs no write.
            callback()
        written = self._pagemap.question(extent.address, extent.end)
        maps, calls = self._idle_maps, itertools.count(1)

        def question() -> bool:
            if written():
                return True
            if next(calls) % HOLE_EVERY:
                return False
            try:
                return not maps.mapped(extent.address, extent.end)
            except VramtapError:
                return True

        try:
            if isinstance(extent.space, GuestSpace):
                return MachineWatch(extent.space, question, callback, self._latency_s)
            return IdleWatch(question, callback, self._latency_s)
        except (RuntimeError, KernelError) as error:
            log.debug("%s: asked in turn: %s", extent, error)
            return None

    def stop(self) -> None:
        """Close the userfaultfd: the kernel lifts all protection and forgets the registration."""
        self._extent = None
        while self._close:
            self._close.pop()()


def bridge(hits: NDArray[np.int64], apart: PageRuns = NO_PAGES, address: int = 0) -> list[tuple[int, int]]:
    """Few ranges that cover all hits.

    Args:
        hits: Byte ranges, shape `(n, 2)`, sorted, disjoint, half-open; at least one.
        apart: Pages of the extent, none of them hit, that should not be covered.
        address: Where the extent begins.

    Returns:
        At most `MAX_PROTECT_CALLS` ranges in order: gaps of up to `MAX_GAP_PAGES` with nothing of `apart` in
        them are bridged, and then the smallest that are left until there are few enough.
    """
    if len(hits) == 1:
        return [(int(hits[0, 0]), int(hits[0, 1]))]
    gaps = hits[1:, 0] - hits[:-1, 1]
    splits = gaps > MAX_GAP_PAGES * PAGE_SIZE
    if apart:
        between = np.searchsorted(apart.array[:, 0], (hits[:, 0] - address) // PAGE_SIZE)
        splits |= between[1:] > between[:-1]
    split = np.flatnonzero(splits)
    if not len(split):
        return [(int(hits[0, 0]), int(hits[-1, 1]))]
    if len(split) >= MAX_PROTECT_CALLS:
        widest = np.argsort(gaps[split], kind="stable")[-(MAX_PROTECT_CALLS - 1) :]
        split = np.sort(split[widest])
    starts = hits[np.concatenate([[0], split + 1]), 0]
    ends = hits[np.concatenate([split, [len(hits) - 1]]), 1]
    return [(int(lower), int(upper)) for lower, upper in zip(starts, ends, strict=True)]


def _pages(ranges: NDArray[np.int64], address: int) -> PageRuns:
    """Byte ranges as pages of an extent that begins at `address`."""
    if len(ranges) <= FEW:
        return PageRuns(
            [
                ((lower - address) // PAGE_SIZE, (upper - address) // PAGE_SIZE)
                for lower, upper in ranges.tolist()
            ]
        )
    return PageRuns((ranges - address) // PAGE_SIZE)


def _without(hits: NDArray[np.int64], left_open: PageRuns, address: int) -> NDArray[np.int64]:
    """The byte ranges of `hits` less the pages left open, of an extent that begins at `address`."""
    pages = _pages(hits, address).difference(left_open)
    return pages.array * PAGE_SIZE + address if pages else _NOWHERE
