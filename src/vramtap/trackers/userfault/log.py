"""Tracker `log`: the kernel write-protects the pages and marks written ones; one call fetches the marks.

The two-phase scan, and why the steps have this order:

Facts. A write to a protected page faults. The kernel marks the page as written, makes it writable and lets
the writer continue (about 0.75 us, once for each page and scan). PAGEMAP_SCAN reads the marks. With
WP_MATCHING it also protects the pages that it returns, in the same step under the page-table lock, so that no
write falls between the two. But with WP_MATCHING the kernel notifies the MMU notifiers of the whole range,
written or not, and KVM then drops its mappings of those guest pages: every scan would cost a guest that draws
nothing. A scan without it notifies nothing. If a mapping has lost its registration (unmapped and mapped
again), CHECK_WPASYNC fails with EPERM. A hole is skipped without an error. So is memory that was moved out of
the range and is written elsewhere.

Consequences. Idle scans must only read. Only the ranges with written pages may be protected again. And an
answer proves nothing unless the whole range is known to be mapped.

Decision. Phase one reads the marks. Then the tracker checks that the range is mapped (one microsecond). If
phase one found written pages, phase two scans and protects the ranges around them. The answer is what phase
two returned, not phase one; other pages keep their marks for the next scan. The caller reads pixels
afterwards, so a write between phase two and this read is marked again: reported twice, never lost.
"""

from __future__ import annotations

import itertools
import logging
import os
from typing import TYPE_CHECKING, Final

import numpy as np

from vramtap.errors import KernelError, VramtapError
from vramtap.linux.inject import Fetched, fetch_userfaultfd
from vramtap.linux.pagemap import Pagemap
from vramtap.linux.procfs import MapsQuery
from vramtap.linux.userfaultfd import LOG_FEATURES, Userfaultfd
from vramtap.pages import FEW, NO_PAGES, PAGE_SIZE, PageRuns
from vramtap.trackers.backlog import Backlog
from vramtap.trackers.base import AllDirty, Reason, TrackerDefaults, Waker, started
from vramtap.trackers.poller import IDLE_INTERVAL_S, IdleWatch

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from vramtap.memory.extent import Extent

log: logging.Logger = logging.getLogger(__name__)

MAX_PROTECT_CALLS: Final = 16
"""Most calls of phase two in one collect; smaller gaps between written pages are bridged to stay below.

Each call costs a remote TLB flush, whatever its size (about 150 us from another process), so few wide calls
are cheaper for vramtap. Every bridged page may cost a KVM guest a fault (about 1 us). With 16 calls, both
costs stay near 2 ms for the worst scatter.
"""
MAX_GAP_PAGES: Final = 64
"""Gaps up to this size are always bridged: 64 faults (64 us) cost less than another call (150 us)."""
_NO_RANGES: Final = np.empty((0, 2), dtype=np.int64)

HOLE_CHECK_EVERY: Final = 36
"""While idle, every 36th poll also checks that the range is mapped, about once a second. The check costs one
microsecond with warm caches but twenty with cold ones, and in practice the mapping never goes away."""


class LogTracker(TrackerDefaults):
    """Follows writes with userfaultfd's asynchronous write protection and PAGEMAP_SCAN.

    It needs Linux 6.7 and, for another process, ptrace rights at `start` only. It sees writes through the
    process's page tables: by the process itself, the kernel or KVM. It does not see DMA into memory that was
    pinned before (devices assigned to a guest, registered buffers of io_uring). It does not see how shared
    memory and mapped files change by other means: another process's mapping, write(2), punched holes. It
    reports memory that was given back (MADV_DONTNEED) although nothing wrote there.

    Args:
        allow_filtered: Also inject into a target that has a seccomp filter; see `linux.inject`.
        latency_s: Interval between polls while idle, seconds.

    Attributes:
        stopped_us: How long attaching stopped a thread of the target, microseconds.
    """

    name: Final = "log"
    prefers_window: Final = False

    def __init__(self, *, allow_filtered: bool = False, latency_s: float = IDLE_INTERVAL_S) -> None:
        self._allow_filtered = allow_filtered
        self._latency_s = latency_s
        self._extent: Extent | None = None
        self._backlog: Backlog
        self._close: list[Callable[[], None]] = []
        self.stopped_us: float = 0.0

    def start(self, extent: Extent) -> None:
        """Protect the extent.

        Raises:
            Refused: no ptrace rights.
            VramtapError: no single process maps the memory.
            KernelError: the kernel lacks the interface, or cannot protect this kind of memory.
        """
        self.start_fetched(extent, fetch_userfaultfd)

    def start_fetched(self, extent: Extent, fetch: Callable[..., Fetched]) -> Fetched | None:
        """Protect the extent, with a userfaultfd that the caller chooses how to fetch.

        Args:
            extent: What to track.
            fetch: Called as `fetch(pid, allow_filtered=...)` if the memory belongs to another process.

        Returns:
            The result of `fetch`, whose first descriptor now belongs to the tracker; None for this process.

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
                "no single process maps this memory, so the kernel cannot log its writes",
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
            # Opened here and not by `wake`: there may be no descriptor left then.
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
        self._backlog = Backlog(extent.pages)
        return fetched

    @property
    def read_from(self) -> Extent:
        """The tracked extent itself."""
        return started(self._extent, self.name)

    def collect(
        self, window: tuple[int, int] | None = None, *, exclude: PageRuns = NO_PAGES
    ) -> PageRuns | AllDirty:
        """Return the written pages of the window and protect them again; see `Tracker.collect`.

        Args:
            window: As in `Tracker.collect`.
            exclude: Pages to leave unprotected and not to report. Some of them may be protected and reported
                anyway, where separate calls for many small pieces around them would cost more.
        """
        extent = self.read_from
        first, last = window or (0, extent.pages)
        start, end = extent.address + first * PAGE_SIZE, extent.address + last * PAGE_SIZE
        written = self._pagemap.written(start, end, protect=False)
        if written is None:
            return self._register_again(extent, (first, last))
        if not self._maps.mapped(start, end):
            return self._backlog.lose(AllDirty(Reason.UNMAPPED, f"{extent} has a hole"))
        if len(written) and exclude:
            written = _without(written, exclude, extent.address)
        found = NO_PAGES
        if len(written):
            protected = self._protect_again(written, exclude, extent)
            if protected is None:
                return self._register_again(extent, (first, last))
            found = protected
        return self._backlog.take((first, last), found)

    def _protect_again(
        self, written: NDArray[np.int64], exclude: PageRuns, extent: Extent
    ) -> PageRuns | None:
        """Return the pages written by now, protected again; None if the registration is gone."""
        parts = []
        for lower, upper in bridge(written, exclude, extent.address):
            try:
                part = self._pagemap.written(lower, upper, protect=True)
            except VramtapError as error:
                # The marks that the earlier calls cleared are lost with this answer.
                self._backlog.lose(AllDirty(Reason.TAKEN, str(error)))
                raise
            if part is None:
                return None
            parts.append(part)
        return _pages(parts[0] if len(parts) == 1 else np.concatenate(parts), extent.address)

    def take_pending(self, window: tuple[int, int] | None = None) -> PageRuns | AllDirty:
        """Return what is to be reported of the window without reading the log."""
        return self._backlog.take(window or (0, self.read_from.pages))

    @property
    def is_mapped(self) -> bool:
        """Whether there is memory behind every page of the extent.

        Raises:
            TargetGone: the owner of the memory has ended.
        """
        extent = self.read_from
        return self._maps.mapped(extent.address, extent.end)

    @property
    def has_pending(self) -> bool:
        """Whether some page is to be reported whatever the log says."""
        return bool(self._backlog)

    def _register_again(self, extent: Extent, window: tuple[int, int]) -> AllDirty:
        """Register and protect what is mapped at the extent's addresses now."""
        self._uffd.unregister(extent.address, extent.end)
        answer = self.resume(AllDirty(Reason.REMAPPED, f"{extent} was mapped again; protected again"))
        if answer.reason is not Reason.UNMAPPED:
            self._backlog.take(window)
        return answer

    def suspend(self, why: AllDirty) -> None:
        """Lift all protection and drop the log; until `resume` only `take_pending` may be called.

        Args:
            why: The next answer for each page.
        """
        extent = self.read_from
        self._uffd.unregister(extent.address, extent.end)
        self._backlog.lose(why)

    def resume(self, why: AllDirty) -> AllDirty:
        """Protect what is mapped at the extent's addresses now, with an empty log.

        Args:
            why: The next answer for each page.

        Returns:
            `why`, or `UNMAPPED` if some of the addresses have no memory any more.
        """
        extent = self.read_from
        try:
            self._uffd.register(extent.address, extent.end)
            self._uffd.protect(extent.address, extent.end)
        except KernelError as error:
            return self._backlog.lose(AllDirty(Reason.UNMAPPED, str(error)))
        return self._backlog.lose(why)

    def restore(self, runs: PageRuns) -> None:
        """Report these pages again."""
        self._backlog.add(runs)

    def rehearse_protect(self, page: int) -> None:
        """Do the work of a scan that finds one written page, for calibration."""
        start = self.read_from.address + page * PAGE_SIZE
        self._uffd.lift(start, start + PAGE_SIZE)
        self._pagemap.written(start, start + PAGE_SIZE, protect=True)
        self.restore(PageRuns([(page, page + 1)]))

    def rehearse_scan(self) -> None:
        """Do the work of a scan that finds nothing, for calibration."""
        extent = self.read_from
        self._pagemap.written(extent.address, extent.end, protect=False)

    @property
    def idle_after_s(self) -> float:
        """Short if events accompany every write, since waiting for them costs nothing; else infinite."""
        events = self.read_from.space.events
        return events.idle_after_s if events is not None else float("inf")

    def wake(self, callback: Callable[[], None]) -> Waker | None:
        """Wait for the memory's write events, or poll from a thread; None if no thread can be started."""
        extent = self.read_from
        if self.has_pending:
            # Pages are pending already: do not wait for another write.
            callback()
        has_written = self._pagemap.question(extent.address, extent.end)
        maps, calls = self._idle_maps, itertools.count(1)

        def poll() -> bool:
            if has_written():
                return True
            if next(calls) % HOLE_CHECK_EVERY:
                return False
            try:
                return not maps.mapped(extent.address, extent.end)
            except VramtapError:
                return True

        try:
            if extent.space.events is not None:
                return extent.space.events.watch(poll, callback, self._latency_s)
            return IdleWatch(poll, callback, self._latency_s)
        except (RuntimeError, KernelError) as error:
            log.debug("%s: the event loop polls instead of a thread: %s", extent, error)
            return None

    def stop(self) -> None:
        """Close the userfaultfd: the kernel lifts all protection and drops the registration."""
        self._extent = None
        while self._close:
            self._close.pop()()


def bridge(
    written: NDArray[np.int64], exclude: PageRuns = NO_PAGES, address: int = 0
) -> list[tuple[int, int]]:
    """Return few ranges that cover all written pages.

    Args:
        written: Byte ranges, int64, shape `(n, 2)`, sorted, disjoint, half-open; at least one.
        exclude: Pages of the extent, none of them written, to avoid covering.
        address: First address of the extent.

    Returns:
        At most `MAX_PROTECT_CALLS` ranges in order. Gaps of up to `MAX_GAP_PAGES` without excluded pages are
        bridged first, then the smallest of the others until there are few enough ranges.
    """
    if len(written) == 1:
        return [(int(written[0, 0]), int(written[0, 1]))]
    gaps = written[1:, 0] - written[:-1, 1]
    splits = gaps > MAX_GAP_PAGES * PAGE_SIZE
    if exclude:
        between = np.searchsorted(exclude.array[:, 0], (written[:, 0] - address) // PAGE_SIZE)
        splits |= between[1:] > between[:-1]
    split = np.flatnonzero(splits)
    if not len(split):
        return [(int(written[0, 0]), int(written[-1, 1]))]
    if len(split) >= MAX_PROTECT_CALLS:
        widest = np.argsort(gaps[split], kind="stable")[-(MAX_PROTECT_CALLS - 1) :]
        split = np.sort(split[widest])
    starts = written[np.concatenate([[0], split + 1]), 0]
    ends = written[np.concatenate([split, [len(written) - 1]]), 1]
    return [(int(lower), int(upper)) for lower, upper in zip(starts, ends, strict=True)]


def _pages(ranges: NDArray[np.int64], address: int) -> PageRuns:
    """Return byte ranges as pages of an extent that begins at `address`."""
    if len(ranges) <= FEW:
        return PageRuns(
            [
                ((lower - address) // PAGE_SIZE, (upper - address) // PAGE_SIZE)
                for lower, upper in ranges.tolist()
            ]
        )
    return PageRuns((ranges - address) // PAGE_SIZE)


def _without(ranges: NDArray[np.int64], exclude: PageRuns, address: int) -> NDArray[np.int64]:
    """Return byte ranges without the excluded pages of an extent that begins at `address`."""
    pages = _pages(ranges, address).difference(exclude)
    return pages.array * PAGE_SIZE + address if pages else _NO_RANGES
