"""Tracker `xen`: the hypervisor's own log of the frames a guest wrote, which device models ask for.

Facts. Xen keeps one tracked range a domain. A call for the same range reads and clears it; a call for another
begins anew and vouches for nothing written before. QEMU asks for the whole of the video RAM, about thirty
times a second while a client of its own VNC looks, and not at all without one. Who asks for exactly that
range too takes bits that QEMU has not seen, and loses those that QEMU took (2 of 12 writes, measured). The
call costs the guest a pause, or its page tables' lock, and the longer the range, the longer.

Two kinds of writes are in no log of Xen's. The device model's own: text and planar modes, the bank window at
0xA0000, are drawn by QEMU through its mapping. And, under shadow paging, single stores of a guest whose
CR0.WP is clear (DOS, boot loaders): Xen carries out the store that met its read-only shadow, without a mark.

Consequence. The range must be another than QEMU's, whatever the guest shows. Where QEMU asks in between, each
of us begins anew with every call: more is reported, nothing lost. An answer with a failure may have cleared
marks that nobody has seen.

Decision. Only the window asked about is tracked, since asking about less costs less. If it is all of the
video RAM, one frame more is asked about. Whenever the device model has run, and while CR0.WP is clear under
shadow paging, everything is looked at again, four times a second while that finds something, else once. Two
taps of one domain would be to each other what QEMU's range must not be; the second is refused. Killed, we
leave Xen tracking: each page of the range costs the guest one fault more, once, and the next to attach ends
it.
"""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, Literal, Protocol

import numpy as np

from vramtap.errors import TargetGone, VramtapError
from vramtap.linux.abstract_lock import AbstractLock
from vramtap.memory.foreign import Placement, XenSpace
from vramtap.pages import NO_PAGES, PageRuns
from vramtap.trackers.base import AllDirty, Reason, Waker
from vramtap.trackers.poller import IDLE_INTERVAL_S, IdleWatch
from vramtap.trackers.xen.idle_guest import IdleGuestFilter
from vramtap.trackers.xen.rescan_timer import RescanTimer
from vramtap.xen.control import Control
from vramtap.xen.devicemodel import MAX_PAGES, DeviceModel

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from vramtap.memory.extent import Extent

WASTE: Final = 4
"""A tracked range is kept while it is no longer than so many times the window asked about."""
SPARE_PAGES: Final = 256
"""And this much more: to begin anew costs a look at everything."""
CPU_STATE_S: Final = 0.25
"""Between two questions for CR0.WP; each pauses the domain for a moment."""

log = logging.getLogger(__name__)


class VramLog(Protocol):
    """What is asked of `DeviceModel`."""

    def track_dirty_vram(self, domid: int, first: int, frames: int, bitmap: NDArray[np.uint8]) -> bool:
        """See `DeviceModel.track_dirty_vram`."""
        ...

    def stop_dirty_vram(self, domid: int) -> None:
        """See `DeviceModel.stop_dirty_vram`."""
        ...

    def close(self) -> None:
        """Give it back."""
        ...


class CpuState(Protocol):
    """What is asked of `Control`."""

    def heeds_write_protection(self, domid: int) -> bool:
        """See `Control.heeds_write_protection`."""
        ...

    def cpu_time_ns(self, domid: int) -> int:
        """See `Control.cpu_time_ns`."""
        ...

    def close(self) -> None:
        """Give it back."""
        ...


class XenTracker:
    """Follows the stores of a Xen HVM domain's guest.

    Needs root in dom0. Does not see what backends in dom0 write into the guest's frames (block or network
    data received into video RAM).

    Args:
        latency_s: Between two questions to the hypervisor while idle, seconds.
        open_log: Opens libxendevicemodel.
        open_cpus: Opens libxenctrl; where that fails CR0.WP counts as clear.
        clock: Monotonic seconds.
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
        self._held = ExitStack()
        self.shadow = False
        """Whether the domain runs on shadow page tables; known once its frames are tracked."""

    def start(self, extent: Extent) -> None:
        """Let the hypervisor track what will be asked about; it begins with the first collect.

        Raises:
            VramtapError: the extent is not in a Xen domain.
            NotFound: a library is not installed.
            Refused: no dom0, or another vramtap tracks this domain.
        """
        self.stop()
        space = extent.space
        if not isinstance(space, XenSpace):
            raise VramtapError("xen", str(extent), "this is no memory of a Xen domain", "use --tracker auto")
        with ExitStack() as held:
            claim = AbstractLock(f"xen/{space.claim}", f"the log of {space.name}")
            held.callback(claim.close)
            self._log = self._open_log()
            held.callback(self._log.close)
            self._cpus: CpuState | None = None
            try:
                self._cpus = self._open_cpus()
                held.callback(self._cpus.close)
            except VramtapError as error:
                log.info("CR0.WP counts as clear: %s", error)
            self._held = held.pop_all()
        self._space, self._extent = space, extent
        self._place: Placement | None = None
        self._range: tuple[int, int] | None = None
        self._followed = self._begun = self._dead = False
        self._tracked: int | None = None
        self._bitmap = np.zeros(MAX_PAGES // 8, dtype=np.uint8)
        self._window = 0, extent.pages
        self._unknown, self._why = PageRuns.full(extent.pages), AllDirty(Reason.FIRST)
        self._pending = self._vouched = NO_PAGES
        self._still = IdleGuestFilter(self._cpus.cpu_time_ns) if self._cpus is not None else None
        self._refresh = RescanTimer()
        self._ran: bytes | None = None
        self._blind = self._suspect = self._refreshed = self._fruitless = False
        self._cpus_next_s = self._fetch_next_s = float("-inf")

    @property
    def precision(self) -> Literal["exact", "superset"]:
        """Shadow paging reports pages with several mappings whether they were written or not."""
        return "superset" if self.shadow else "exact"

    @property
    def read_from(self) -> Extent:
        """The armed extent itself."""
        if self._extent is None:
            raise VramtapError("source", "xen", "not armed", "call arm() first")
        return self._extent

    def collect(self, window: tuple[int, int] | None = None) -> PageRuns | AllDirty:
        """Read the log of the window and clear it; see `Tracker.collect`.

        Raises:
            VramtapError: the window is of more pages than one call can ask about.
        """
        extent = self.read_from
        first, last = window or (0, extent.pages)
        asked = last - first + ((first, last) == (0, extent.pages))
        if asked > MAX_PAGES:
            reason = f"{asked} pages at once: Xen tells of {MAX_PAGES} (128 MiB)"
            raise VramtapError(
                "collect", str(extent), reason, "ask about the scanout alone, or use --tracker compare"
            )
        self._window = first, last
        self._follow(first, last)
        self._fetch()
        wanted = self._unlogged()
        taken = self._pending.clip(first, last)
        self._pending = self._pending.difference(taken)
        self._refreshed = self._fruitless = False
        if self._unknown.clip(first, last):
            why = self._why
            self._settled(first, last)
            return why
        if wanted is not None:
            self._settled(first, last)
            self._refreshed, self._vouched = True, taken
            return wanted
        return taken

    def _follow(self, first: int, last: int) -> None:
        """Choose the range to be tracked, and forget what was known of another."""
        extent, place = self.read_from, self._space.placement
        if place is not self._place:
            if self._followed:
                reason = Reason.UNMAPPED if place is None else Reason.REMAPPED
                self._lose(AllDirty(reason, f"{extent} has {'no' if place is None else 'another'} place"))
            self._place, self._range, self._dead = place, None, False
        self._followed = True
        if place is None or self._dead:
            return
        if self._range is not None:
            begin, end = self._range
            if begin <= first and last <= end and end - begin <= WASTE * (last - first) + SPARE_PAGES:
                return
            self._lose(AllDirty(Reason.FIRST))
        # QEMU's own range is the whole of it, and must stay QEMU's: one frame more makes another.
        self._range = (first, last + 1) if (first, last) == (0, extent.pages) else (first, last)
        self._begun = False

    def _lose(self, why: AllDirty) -> None:
        """Nothing is vouched for any more."""
        self._unknown, self._why, self._pending = PageRuns.full(self.read_from.pages), why, NO_PAGES

    def _fetch(self) -> None:
        """Add what was written to what is kept."""
        place = self._place
        if place is None or self._range is None or self._dead:
            return
        begin, end = self._range
        bits = self._bitmap[: (end - begin + 7) // 8]
        bits[:] = 0
        try:
            if not self._begun:
                # What one that was killed has left tracked would answer in our place.
                self._log.stop_dirty_vram(place.domid)
            self._tracked = place.domid
            idle = self._still is not None and self._still.asking(place.domid, self._clock())
            told = self._log.track_dirty_vram(place.domid, place.first + begin, end - begin, bits)
        except TargetGone as error:
            # What it wrote last is looked at once more, as long as it is mapped. It writes nothing any more.
            self._dead = True
            self._lose(AllDirty(Reason.UNMAPPED, str(error)))
            return
        except VramtapError as error:
            self._begun = False
            self._lose(AllDirty(Reason.TAKEN, str(error)))
            raise
        if not self._begun:
            self._begun, self.shadow = True, not told
        elif told:
            if bits.any():
                if idle and self._still is not None and not self._wholly(bits, end - begin):
                    self._still.contradicted()
                written = PageRuns.from_bitmap(bits.data, end - begin).shift(begin)
                self._pending = self._pending.union(written.clip(0, self.read_from.pages))
        else:
            self._lose(AllDirty(Reason.TAKEN, f"{self.read_from}: another asked for another range"))

    @staticmethod
    def _wholly(bits: NDArray[np.uint8], frames: int) -> bool:
        """Whether every page is named: the answer to who begins anew, not one about the guest."""
        return bool((bits[: frames // 8] == 0xFF).all())

    # What is in no log

    def _unlogged(self) -> AllDirty | None:
        """Why everything is to be looked at now although the log says nothing."""
        now_s = self._clock()
        if not self._refresh.due(now_s):
            return None
        model = self._space.model
        ran = model.read() if model is not None else None
        if self._place is not None and self._blind_cpus(now_s):
            return AllDirty(Reason.UNLOGGED, f"{self.read_from}: CR0.WP is clear under shadow paging")
        if model is None or ran != self._ran:
            return AllDirty(Reason.UNLOGGED, f"{self.read_from}: the device model has run")
        return None

    def _settled(self, first: int, last: int) -> None:
        """All of the window is about to be looked at: what was written there past the log until now is seen.

        What was written past it elsewhere is not.
        """
        now_s, model = self._clock(), self._space.model
        ran = model.read() if model is not None else None
        unlogged = model is None or ran != self._ran or self._suspect
        if unlogged or (self.shadow and self._cpus is None):
            if not self._unknown:
                self._why = AllDirty(Reason.UNLOGGED, f"{self.read_from}: only a part was looked at since")
            self._unknown = PageRuns.full(self.read_from.pages)
        self._unknown = self._unknown.difference(PageRuns([(first, last)]))
        self._ran, self._suspect = ran, self._blind
        self._refresh.made(now_s)

    def _blind_cpus(self, now_s: float) -> bool:
        """Whether stores may go past the log now, or did until a moment ago."""
        if not self.shadow or self._dead:
            return False
        if self._cpus is None:
            return True
        if now_s >= self._cpus_next_s:
            self._cpus_next_s = now_s + CPU_STATE_S
            try:
                assert self._place is not None
                self._blind = not self._cpus.heeds_write_protection(self._place.domid)
            except VramtapError as error:
                log.debug("%s", error)
                self._blind = True
            # Once seen to be clear it stays in mind until everything was looked at: whoever asks first is
            # not always who looks.
            self._suspect |= self._blind
        return self._suspect

    def restore(self, runs: PageRuns) -> None:
        """Report these pages again."""
        self._pending = self._pending.union(runs)

    @property
    def has_more(self) -> bool:
        """Never."""
        return False

    @property
    def wants_feedback(self) -> bool:
        """Whether the last answer was a look for what is in no log."""
        return self._refreshed

    def feedback(self, changed: PageRuns) -> None:
        """Hear whether anything was written past the log; see `Tracker.feedback`."""
        if self._refreshed:
            self._refreshed = False
            found = bool(changed.difference(self._vouched))
            self._fruitless = not changed
            self._refresh.found(found)

    @property
    def idle_after_s(self) -> float:
        """None after a look in vain: it was not the guest that woke us."""
        return 0.0 if self._fruitless else float("inf")

    def wake(self, callback: Callable[[], None]) -> Waker | None:
        """Ask from a thread; None where there can be none.

        Each question to the hypervisor holds the guest up, so it is put no more often than the latency that
        was asked for needs, and only if the guest has run since. Whether the device model has run costs
        nobody anything and is asked about at least as often as idle targets are: a key, a disk's answer, a
        client of QEMU's own are signs that something may be drawn soon.
        """
        self._fetch_next_s = self._clock() + self._latency_s
        # The question below keeps what it reads for the next collect; nothing else touches the tracker until
        # the waiting is cancelled, and cancelling waits for the thread.
        model = self._space.model
        noticed = model.read() if model is not None else None

        def question() -> bool:
            nonlocal noticed
            if self._space.placement is not self._place:
                return True
            now_s = self._clock()
            ran = model.read() if model is not None else None
            if now_s < self._fetch_next_s and ran == noticed:
                return False
            noticed = ran
            self._fetch_next_s = now_s + self._latency_s
            if self._still is None or not self._still.sure(now_s):
                try:
                    self._fetch()
                except VramtapError:
                    # What is wrong is for the collect to say.
                    return True
            return bool(self._unseen()) or self._unlogged() is not None

        try:
            return IdleWatch(question, callback, min(self._latency_s, IDLE_INTERVAL_S))
        except RuntimeError:
            return None

    def _unseen(self) -> PageRuns:
        """What is to be reported of the window asked about last."""
        return self._pending.union(self._unknown).clip(*self._window)

    def stop(self) -> None:
        """Let the hypervisor track nothing any more, and let go of the domain."""
        if self._extent is None:
            return
        self._extent = None
        with self._held:
            # Wherever the video RAM is by now: what is tracked are the frames where it was.
            if self._tracked is not None:
                try:
                    self._log.stop_dirty_vram(self._tracked)
                except TargetGone:
                    log.debug("%s had ended before tracking was", self._space.name)
