"""XenSpace: the video RAM of a Xen domain as an address space, wherever the guest places it."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from vramtap.pages import PAGE_SIZE, PageRuns

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vramtap.linux.schedstat import SchedstatProbe
    from vramtap.xen.foreignmemory import ForeignMemory, FrameMapping


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """Location of the video RAM. Compared by identity: a new object means that the location may have changed.

    Args:
        domid: ID of the domain.
        first: Guest frame number of the first page.
    """

    domid: int
    first: int


class XenFrames(Protocol):
    """What a tracker needs of the frames of a Xen domain. `XenSpace` provides it."""

    name: str
    """Name of the domain in messages."""
    claim: str
    """Name that stays the same when the frames move; at most one tracker may hold it."""
    placement: Placement | None
    """Where the frames are now; None while the guest has placed them nowhere."""
    model: SchedstatProbe | None
    """CPU time of the device model, which writes frames in ways that no log records; None if not known."""


class XenSpace:
    """Frames of a domain that may move; an extent's address is the offset in them.

    Firmware places the framebuffer some time after the domain has started and may move it. A reboot makes
    another domain. The extent stays the same, and `placement` is where the frames are now.

    Args:
        memory: Maps frames; `close` closes it.
        pages: Size of the video RAM, pages.
        name: Name in messages.
        claim: See `XenFrames.claim`.
    """

    events: Final = None

    def __init__(self, memory: ForeignMemory, pages: int, name: str, claim: str) -> None:
        self.name = name
        self.pid: int | None = None
        self.bytes_read: int = 0
        self.claim = claim
        self.placement: Placement | None = None
        self.model: SchedstatProbe | None = None
        self._memory = memory
        self._pages = pages
        self._mapping: FrameMapping | None = None
        # A tracker may read in a thread while the target learns that the domain has ended.
        self._lock = threading.Lock()

    @property
    def frames(self) -> XenFrames:
        """The space itself."""
        return self

    def place(self, domid: int, first: int) -> bool:
        """Map the video RAM at a new location.

        Returns:
            Whether all of its frames exist; if not, `placement` becomes None.

        Raises:
            TargetGone: the domain has ended.
            VramtapError: the hypervisor refused.
        """
        if self.placement is not None and (self.placement.domid, self.placement.first) == (domid, first):
            return True
        mapping = self._memory.map(domid, first, self._pages)
        if mapping.missing:
            mapping.close()
            self.unplace()
            return False
        with self._lock:
            former, self._mapping = self._mapping, mapping
            self.placement = Placement(domid, first)
        if former is not None:
            former.close()
        return True

    def unplace(self) -> None:
        """Unmap the video RAM, so that Xen can free a domain that has ended."""
        with self._lock:
            former, self._mapping = self._mapping, None
            self.placement = None
            if former is not None:
                former.close()

    def read_runs(self, address: int, runs: PageRuns, into: NDArray[np.uint8], base_page: int) -> None:
        """Copy whole pages, zeros while `placement` is None; see `AddressSpace.read_runs`.

        A missing placement is not an error: every guest starts without one, and again after a reboot. With an
        error here `CompareTracker` could not start on such a guest.
        """
        offset = address // PAGE_SIZE
        with self._lock:
            for first, last in runs:
                at, size = (first - base_page) * PAGE_SIZE, (last - first) * PAGE_SIZE
                if self._mapping is None:
                    into[at : at + size] = 0
                    continue
                self._mapping.read(offset + first, offset + last, into[at : at + size])
                self.bytes_read += size

    def close(self) -> None:
        """Unmap the video RAM and close the hypervisor's interface; harmless twice."""
        self.unplace()
        if self.model is not None:
            self.model.close()
            self.model = None
        self._memory.close()
