"""Tracker `kvmlog`: reads KVM's own log of the pages a guest wrote, in each of its three forms.

Research, for the built-in VM on KVM only: only the process that owns a KVM VM can read its log.

Facts. KVM logs a memory slot by write-protecting its pages (or by the processor's page-modification log) and
marks written pages. KVM_GET_DIRTY_LOG returns the marks, clears them and protects the pages again, for the
whole slot at once. With MANUAL_DIRTY_LOG_PROTECT2 that call only returns the marks, and KVM_CLEAR_DIRTY_LOG
clears and protects the pages it names. With a dirty ring there are no marks but a list for each vCPU. The
list is complete only once the vCPU has left the guest, and the guest stops when it is full. None of the three
sees a store by this process, and devices write the video RAM too.

Consequences. The first form and the ring also report pages outside the window, and the tracker has to keep
them. With the second form a page may be written again between the two calls. The clearing call then clears
the mark of both writes, but the page is in this answer and its pixels are read later, so no write is lost.

Decision. The tracker reads the bitmaps while the guest runs, and stops the guest to read the ring. When the
ring is almost full, the CPU empties it on the machine's thread and keeps the pages. The tracker keeps all
pages that it has read outside the window, for a later collect.
"""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Final

from vramtap.errors import TargetGone, VramtapError
from vramtap.machine.kvm_cpu import KvmCpu
from vramtap.machine.layout import VRAM_BASE, VRAM_BYTES
from vramtap.machine.space import PausableMachine, guest_space
from vramtap.pages import PAGE_SIZE, PageRuns
from vramtap.trackers.backlog import Backlog
from vramtap.trackers.base import AllDirty, Reason, TrackerDefaults, Waker, started
from vramtap.trackers.poller import IdleWatch

if TYPE_CHECKING:
    from collections.abc import Callable

    from vramtap.machine.memory import DeviceLog
    from vramtap.memory.extent import Extent


class KvmLogTracker(TrackerDefaults):
    """Follows the stores of a guest under KVM, and of the VM's devices, by KVM's dirty log.

    Research, for the built-in VM only. Its CPU must be a `KvmCpu`, whose form of log decides which calls are
    made.

    Cost: a collect of 16 MiB takes about 15 us if nothing was written and 0.5 ms if every page was. The first
    store to each page after a collect costs the guest a fault.
    """

    name: Final = "kvmlog"
    prefers_window: Final = False

    def __init__(self) -> None:
        self._extent: Extent | None = None
        self._backlog: Backlog

    def start(self, extent: Extent) -> None:
        """Start KVM's log of the video RAM.

        Raises:
            VramtapError: the extent is not video RAM of a built-in VM that runs under KVM.
            Refused: another tracker reads this VM's log.
            TargetGone: the VM has ended.
        """
        self.stop()
        space, frame = guest_space(extent)
        if frame + extent.size_bytes > VRAM_BASE + VRAM_BYTES:
            raise VramtapError("kvmlog", str(extent), "goes past the end of the VM's video RAM")
        cpu = space.machine.cpu
        if not isinstance(cpu, KvmCpu):
            raise VramtapError(
                "kvmlog",
                str(extent),
                f"the VM's CPU is {cpu.name}, which has no KVM log",
                "use ?cpu=kvm",
            )
        with space.machine.paused():
            cpu.vram_log.start()
        self._machine: PausableMachine = space.machine
        self._log = cpu.vram_log
        self._first = (frame - VRAM_BASE) // PAGE_SIZE
        self._devices: DeviceLog = space.machine.memory.log_device_writes()
        self._extent = extent
        self._backlog = Backlog(extent.pages)

    @property
    def read_from(self) -> Extent:
        """The extent itself."""
        return started(self._extent, self.name)

    def collect(self, window: tuple[int, int] | None = None) -> PageRuns | AllDirty:
        """Read the log and clear it; see `Tracker.collect`."""
        extent = self.read_from
        first, last = window or (0, extent.pages)
        self._fetch(first, last)
        return self._backlog.take((first, last))

    def _fetch(self, first: int, last: int) -> None:
        """Read the log and the devices' log, and keep what they report."""
        with self._paused_for_ring():
            fetched = self._log.fetch(self._first + first, self._first + last)
        self._keep(fetched.pages.union(self._devices.take()))
        if fetched.overflow:
            # Any page may be missing, so each counts as dirty until it has been collected.
            self._backlog.lose(AllDirty(Reason.OVERFLOW, f"{self.read_from}: KVM's dirty ring was full"))

    def _paused_for_ring(self) -> AbstractContextManager[None]:
        return self._machine.paused() if self._log.form == "ring" else contextlib.nullcontext()

    def _keep(self, vram_pages: PageRuns) -> None:
        if vram_pages:
            inside = vram_pages.clip(self._first, self._first + self.read_from.pages)
            self._backlog.add(inside.shift(-self._first))

    def restore(self, runs: PageRuns) -> None:
        """Report these pages again."""
        self._backlog.add(runs)

    def wake(self, callback: Callable[[], None]) -> Waker | None:
        """Poll KVM at a low rate from a thread, without clearing the log; None if no thread can be started.

        With the first form, one call reads and clears. The thread then clears too, and keeps what it read for
        the next collect. Nothing else uses the tracker until the wait is cancelled, and cancelling waits for
        the thread. An empty log needs no new write protection, so a guest that draws nothing pays nothing.

        With the ring, the thread only reads the ring's shared memory. Stopping the guest for each poll would
        cost more than waiting for the vCPU's next exit, when a written page becomes visible there.
        """
        extent = self.read_from
        if self._backlog:
            # Pages are pending already: do not wait for another write.
            callback()
            return _AlreadyCalled()

        def written() -> bool:
            try:
                self._keep(self._devices.take())
                has_pages = self._log.has_pages()
                if has_pages is None:
                    self._fetch(0, extent.pages)
            except VramtapError:
                # Wake up: the collect that follows raises the error to its caller.
                return True
            return bool(has_pages or self._backlog)

        try:
            return IdleWatch(written, callback)
        except RuntimeError:
            return None

    def stop(self) -> None:
        """Stop KVM's log; the guest's stores cost nothing any more."""
        if self._extent is None:
            return
        self._extent = None
        self._devices.close()
        try:
            with self._machine.paused():
                self._log.stop()
        except TargetGone:
            # Its CPU runs no longer.
            self._log.stop()


class _AlreadyCalled:
    """Waker whose callback was called at once."""

    fd: Final = None

    def cancel(self) -> None:
        """Do nothing: no wait is under way."""
