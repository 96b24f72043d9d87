"""Tracker `xen`: the hypervisor's log of the frames that a guest wrote, the one that device models read.

Facts. Xen keeps one tracked range for each domain. A call for the same range reads and clears it. A call for
another range starts a new log and reports nothing about earlier writes. QEMU calls for all of the video RAM,
about thirty times a second while its own VNC has a client, and not at all without one. A second caller with
exactly that range takes marks that QEMU has not seen, and loses those that QEMU took (2 of 12 writes,
measured). The call pauses the guest, or holds the lock of its page tables; longer ranges take longer.

Two kinds of writes are in none of Xen's logs. The device model's own: QEMU draws text and planar modes, and
the bank window at 0xA0000, through its mapping. And under shadow paging, single stores of a guest whose
CR0.WP is clear (DOS, boot loaders): Xen emulates a store that met its read-only shadow without marking the
page.

Consequences. The range must differ from QEMU's, whatever the guest shows. While QEMU calls too, either caller
starts a new log with every call: more is reported, nothing is lost. A call that fails may have cleared marks
that neither caller has seen.

Decision. Only the requested window is tracked, since less costs less. If the window is all of the video RAM,
one more frame is tracked. Whenever the device model has run, and while CR0.WP is clear under shadow paging,
the tracker reports all pages: four times a second while this finds changes, else once a second. Two taps of
one domain would disturb each other as QEMU's range would, so the second is refused. If vramtap is killed, Xen
keeps tracking: each page of the range costs the guest one more fault, once. The next attach ends it.
"""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from enum import Enum, auto
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from vramtap.errors import TargetGone, VramtapError
from vramtap.linux.abstract_lock import AbstractLock
from vramtap.pages import NO_PAGES, PageRuns
from vramtap.trackers.backlog import Backlog
from vramtap.trackers.base import AllDirty, Reason, Waker, started
from vramtap.trackers.poller import IDLE_INTERVAL_S, IdleWatch
from vramtap.trackers.xen.idle_guest import IdleGuestFilter
from vramtap.trackers.xen.rescan_timer import RescanTimer
from vramtap.xen.control import Control
from vramtap.xen.devicemodel import MAX_PAGES, DeviceModel

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from vramtap.memory.extent import Extent
    from vramtap.memory.foreign import Placement

MAX_RANGE_FACTOR: Final = 4
"""A tracked range is kept while it is at most this many times as long as the window,"""
SPARE_PAGES: Final = 256
"""and this many pages more: a new range costs a scan of all pages."""
CPU_STATE_INTERVAL_S: Final = 0.25
"""Time between two reads of CR0.WP; each pauses the domain for a moment."""

log: logging.Logger = logging.getLogger(__name__)


class VramLog(Protocol):
    """The part of `DeviceModel` that the tracker uses."""

    def track_dirty_vram(self, domid: int, first: int, frames: int, bitmap: NDArray[np.uint8]) -> bool:
        """See `DeviceModel.track_dirty_vram`."""
        ...

    def stop_dirty_vram(self, domid: int) -> None:
        """See `DeviceModel.stop_dirty_vram`."""
        ...

    def close(self) -> None:
        """See `DeviceModel.close`."""
        ...


class CpuState(Protocol):
    """The part of `Control` that the tracker uses."""

    def heeds_write_protection(self, domid: int) -> bool:
        """See `Control.heeds_write_protection`."""
        ...

    def cpu_time_ns(self, domid: int) -> int:
        """See `Control.cpu_time_ns`."""
        ...

    def close(self) -> None:
        """See `Control.close`."""
        ...


class _Log(Enum):
    """State of the hypervisor's log."""

    NEW = auto()
    """No collect so far."""
    OFF = auto()
    """Xen tracks no range, or the range must be started again."""
    ON = auto()
    """Xen tracks the range."""
    ENDED = auto()
    """The domain has ended and writes nothing any more."""


class _CpuWrites(Enum):
    """Whether stores of the guest's CPUs bypass the log."""

    LOGGED = auto()
    BYPASSED = auto()
    """Some did, since the last scan of all pages."""
    BYPASSING = auto()
    """They do now."""


class _Rescan(Enum):
    """What the last answer was, if it reported all pages because of writes that no log records."""

    NONE = auto()
    """Another answer."""
    REPORTED = auto()
    """Such an answer; the caller has not given feedback."""
    FOUND_NOTHING = auto()
    """Such an answer, and no page had changed."""


class XenTracker:
    """Follows the stores of a Xen HVM domain's guest.

    It needs root in dom0. It does not see what backends in dom0 write into the guest's frames (block or
    network data received into video RAM).

    Args:
        latency_s: Interval between polls of the hypervisor while idle, seconds.
        open_log: Opens libxendevicemodel.
        open_cpus: Opens libxenctrl; if that fails, CR0.WP counts as clear.
        clock: Returns monotonic seconds.

    Attributes:
        shadow: Whether the domain runs on shadow page tables; known after the first scan.
    """

    name: Final = "xen"
    prefers_window: Final = True

    def __init__(
        self,
        *,
        latency_s: float = IDLE_INTERVAL_S,
        open_log: Callable[[], VramLog] = DeviceModel,
        open_cpus: Callable[[], CpuState] = Control,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._latency_s = latency_s
        self._open_log = open_log
        self._open_cpus = open_cpus
        self._clock = clock
        self._extent: Extent | None = None
        self._resources = ExitStack()
        self.shadow: bool = False

    def start(self, extent: Extent) -> None:
        """Open the hypervisor's interfaces; its log starts with the first collect.

        Raises:
            VramtapError: the extent is not memory of a Xen domain.
            NotFound: a library is not installed.
            Refused: this is not dom0, or another vramtap tracks this domain.
        """
        self.stop()
        frames = extent.space.frames
        if frames is None:
            raise VramtapError("xen", str(extent), "is not memory of a Xen domain", "use --tracker auto")
        with ExitStack() as opened:
            claim = AbstractLock(f"xen/{frames.claim}", f"the log of {frames.name}")
            opened.callback(claim.close)
            self._log = self._open_log()
            opened.callback(self._log.close)
            self._cpus: CpuState | None = None
            try:
                self._cpus = self._open_cpus()
                opened.callback(self._cpus.close)
            except VramtapError as error:
                log.info("CR0.WP counts as clear: %s", error)
            self._resources = opened.pop_all()
        self._frames, self._extent = frames, extent
        self._place: Placement | None = None
        self._range: tuple[int, int] | None = None
        self._state = _Log.NEW
        self._tracked_domid: int | None = None
        self._bitmap = np.zeros(MAX_PAGES // 8, dtype=np.uint8)
        self._window = 0, extent.pages
        self._backlog = Backlog(extent.pages)
        self._logged_by_answer = NO_PAGES
        self._idle_filter = IdleGuestFilter(self._cpus.cpu_time_ns) if self._cpus is not None else None
        self._rescan_timer = RescanTimer()
        self._rescan = _Rescan.NONE
        self._model_ran: bytes | None = None
        self._cpu_writes = _CpuWrites.LOGGED
        self._next_cpu_check_s = self._next_poll_s = float("-inf")

    @property
    def read_from(self) -> Extent:
        """The tracked extent itself."""
        return started(self._extent, self.name)

    def collect(self, window: tuple[int, int] | None = None) -> PageRuns | AllDirty:
        """Read the log of the window and clear it; see `Tracker.collect`.

        Raises:
            VramtapError: the window has more pages than one call can report.
        """
        extent = self.read_from
        first, last = window or (0, extent.pages)
        frames = last - first + ((first, last) == (0, extent.pages))
        if frames > MAX_PAGES:
            reason = f"{frames} pages in one call: Xen reports at most {MAX_PAGES} (128 MiB)"
            raise VramtapError(
                "collect", str(extent), reason, "pass a smaller window, or use --tracker compare"
            )
        self._window = first, last
        self._choose_range(first, last)
        self._fetch()
        rescan = self._rescan_reason()
        self._rescan = _Rescan.NONE
        answer = self._backlog.take((first, last))
        if isinstance(answer, AllDirty):
            self._begin_rescan(first, last)
            return answer
        if rescan is not None:
            self._begin_rescan(first, last)
            self._rescan, self._logged_by_answer = _Rescan.REPORTED, answer
            return rescan
        return answer

    def _choose_range(self, first: int, last: int) -> None:
        """Choose the range to track; a new range loses the log of the former one."""
        extent, place = self.read_from, self._frames.placement
        if place is not self._place:
            if self._state is not _Log.NEW:
                reason, what = (
                    (Reason.UNMAPPED, "have no location now")
                    if place is None
                    else (Reason.REMAPPED, "have moved")
                )
                self._backlog.lose(AllDirty(reason, f"{extent}: its frames {what}"))
            self._place, self._range, self._state = place, None, _Log.OFF
        if self._state is _Log.NEW:
            self._state = _Log.OFF
        if place is None or self._state is _Log.ENDED:
            return
        if self._range is not None:
            begin, end = self._range
            longest = MAX_RANGE_FACTOR * (last - first) + SPARE_PAGES
            if begin <= first and last <= end and end - begin <= longest:
                return
            self._backlog.lose(AllDirty(Reason.FIRST))
        # All of the video RAM is QEMU's own range, and must stay QEMU's: one more frame makes another range.
        self._range = (first, last + 1) if (first, last) == (0, extent.pages) else (first, last)
        self._state = _Log.OFF

    def _fetch(self) -> None:
        """Read and clear the hypervisor's log, and add what it reports to the backlog."""
        place = self._place
        if place is None or self._range is None or self._state is _Log.ENDED:
            return
        begin, end = self._range
        bits = self._bitmap[: (end - begin + 7) // 8]
        bits[:] = 0
        try:
            if self._state is not _Log.ON:
                # A vramtap that was killed may have left this very range tracked.
                self._log.stop_dirty_vram(place.domid)
            self._tracked_domid = place.domid
            idle = self._idle_filter is not None and self._idle_filter.before_fetch(
                place.domid, self._clock()
            )
            continued = self._log.track_dirty_vram(place.domid, place.first + begin, end - begin, bits)
        except TargetGone as error:
            # The domain's last writes are read once more, as long as they are mapped.
            self._state = _Log.ENDED
            self._backlog.lose(AllDirty(Reason.UNMAPPED, str(error)))
            return
        except VramtapError as error:
            self._state = _Log.OFF
            self._backlog.lose(AllDirty(Reason.TAKEN, str(error)))
            raise
        if self._state is not _Log.ON:
            self._state, self.shadow = _Log.ON, not continued
        elif not continued:
            self._backlog.lose(
                AllDirty(Reason.TAKEN, f"{self.read_from}: another program tracks another range")
            )
        elif bits.any():
            if idle and self._idle_filter is not None and not self._all_set(bits, end - begin):
                self._idle_filter.distrust()
            written = PageRuns.from_bitmap(bits.data, end - begin).shift(begin)
            self._backlog.add(written.clip(0, self.read_from.pages))

    @staticmethod
    def _all_set(bits: NDArray[np.uint8], frames: int) -> bool:
        """Return whether every page is marked, as after a new start of the log."""
        return bool((bits[: frames // 8] == 0xFF).all())

    # Writes that no log records

    def _model_time(self) -> bytes | None:
        """Return how long the device model has run; None if that is not known."""
        return self._frames.model.read() if self._frames.model is not None else None

    def _rescan_reason(self) -> AllDirty | None:
        """Return why all pages must be reported now whatever the log says; None if they need not."""
        now_s = self._clock()
        if not self._rescan_timer.due(now_s):
            return None
        model_ran = self._model_time()
        if self._place is not None and self._cpus_bypass(now_s):
            return AllDirty(Reason.UNLOGGED, f"{self.read_from}: CR0.WP is clear under shadow paging")
        if self._frames.model is None or model_ran != self._model_ran:
            return AllDirty(Reason.UNLOGGED, f"{self.read_from}: the device model has run")
        return None

    def _begin_rescan(self, first: int, last: int) -> None:
        """Note that the caller reads all pages of the window now, unlogged writes included.

        Unlogged writes outside the window stay unread.
        """
        now_s, model_ran = self._clock(), self._model_time()
        unlogged = (
            self._frames.model is None
            or model_ran != self._model_ran
            or self._cpu_writes is not _CpuWrites.LOGGED
        )
        if unlogged or (self.shadow and self._cpus is None):
            pages = self.read_from.pages
            outside = PageRuns([(0, first), (last, pages)])
            if outside:
                reason = f"{self.read_from}: unlogged writes, and only a part was read since"
                self._backlog.lose(AllDirty(Reason.UNLOGGED, reason), outside)
        self._model_ran = model_ran
        if self._cpu_writes is _CpuWrites.BYPASSED:
            self._cpu_writes = _CpuWrites.LOGGED
        self._rescan_timer.begin(now_s)

    def _cpus_bypass(self, now_s: float) -> bool:
        """Return whether stores may bypass the log, or did since the last scan of all pages."""
        if not self.shadow or self._state is _Log.ENDED:
            return False
        if self._cpus is None:
            return True
        if now_s >= self._next_cpu_check_s:
            self._next_cpu_check_s = now_s + CPU_STATE_INTERVAL_S
            try:
                assert self._place is not None
                bypassing = not self._cpus.heeds_write_protection(self._place.domid)
            except VramtapError as error:
                log.debug("%s", error)
                bypassing = True
            if bypassing:
                self._cpu_writes = _CpuWrites.BYPASSING
            elif self._cpu_writes is _CpuWrites.BYPASSING:
                # Kept until all pages have been read: `wake` may have read CR0.WP, which reads no pages.
                self._cpu_writes = _CpuWrites.BYPASSED
        return self._cpu_writes is not _CpuWrites.LOGGED

    def restore(self, runs: PageRuns) -> None:
        """Report these pages again."""
        self._backlog.add(runs)

    @property
    def has_more(self) -> bool:
        """False: every answer is complete."""
        return False

    @property
    def wants_feedback(self) -> bool:
        """Whether the last answer reported all pages because of writes that no log records."""
        return self._rescan is _Rescan.REPORTED

    def feedback(self, changed: PageRuns) -> None:
        """Adapt the rate of such answers to whether they find changes; see `Tracker.feedback`."""
        if self._rescan is _Rescan.REPORTED:
            self._rescan = _Rescan.NONE if changed else _Rescan.FOUND_NOTHING
            self._rescan_timer.ended(found_changes=bool(changed.difference(self._logged_by_answer)))

    @property
    def idle_after_s(self) -> float:
        """0 after an answer that found no change: the guest did not cause this wake-up."""
        return 0.0 if self._rescan is _Rescan.FOUND_NOTHING else float("inf")

    def wake(self, callback: Callable[[], None]) -> Waker | None:
        """Poll from a thread; None if no thread can be started.

        Each call to the hypervisor delays the guest, so it is made no more often than `latency_s` needs, and
        only if the guest has run since. To read whether the device model has run costs the guest nothing, so
        this is polled at least as often as for other idle targets: a key press, an answer of a disk or a
        client of QEMU's own VNC are signs that something may be drawn soon.
        """
        self._next_poll_s = self._clock() + self._latency_s
        # The poll adds what it fetches to the backlog. Nothing else uses the tracker until the wait is
        # cancelled, and cancelling waits for the thread.
        seen = self._model_time()

        def poll() -> bool:
            nonlocal seen
            if self._frames.placement is not self._place:
                return True
            now_s, model_ran = self._clock(), self._model_time()
            if now_s < self._next_poll_s and model_ran == seen:
                return False
            seen = model_ran
            self._next_poll_s = now_s + self._latency_s
            if self._idle_filter is None or not self._idle_filter.is_idle(now_s):
                try:
                    self._fetch()
                except VramtapError:
                    # Wake up: the collect that follows raises the error to its caller.
                    return True
            return bool(self._backlog.runs.clip(*self._window)) or self._rescan_reason() is not None

        try:
            return IdleWatch(poll, callback, min(self._latency_s, IDLE_INTERVAL_S))
        except RuntimeError:
            return None

    def stop(self) -> None:
        """Stop the hypervisor's log and close its interfaces."""
        if self._extent is None:
            return
        self._extent = None
        with self._resources:
            # The tracked frames are those of the location at that time, wherever the video RAM is now.
            if self._tracked_domid is not None:
                try:
                    self._log.stop_dirty_vram(self._tracked_domid)
                except TargetGone:
                    log.debug("%s ended before its log was stopped", self._frames.name)
