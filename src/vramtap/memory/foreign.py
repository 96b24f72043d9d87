"""The video RAM of a Xen domain as an address space: it has a place while the guest gives it one."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vramtap.pages import PAGE_SIZE, PageRuns

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vramtap.linux.schedstat import SchedstatProbe
    from vramtap.xen.foreignmemory import ForeignMemory, FrameMapping


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """Where video RAM is; another object whenever it may be elsewhere.

    Args:
        domid: Of the domain.
        first: Guest frame number of its first page.
    """

    domid: int
    first: int


class XenSpace:
    """Frames of a domain that change their place; an extent's address is the offset in them.

    Firmware places the framebuffer some time after the domain has begun, may move it, and a reboot is
    another domain: the extent stays, and `placement` says where it is now.

    Args:
        memory: Maps frames; closed by `close`.
        pages: How much video RAM there is.
        name: As messages call it.
        claim: A name for it that does not change with its place, for who may be alone only.
    """

    def __init__(self, memory: ForeignMemory, pages: int, name: str, claim: str) -> None:
        self.name = name
        self.pid: int | None = None
        self.bytes_read = 0
        self.claim = claim
        self.placement: Placement | None = None
        self.model: SchedstatProbe | None = None
        """Of the device model, which writes video RAM by ways that are in no log; None if it is not known."""
        self._memory = memory
        self._pages = pages
        self._mapping: FrameMapping | None = None
        # A tracker may read in a thread while the target hears that the domain has gone.
        self._lock = threading.Lock()

    def place(self, domid: int, first: int) -> bool:
        """Note where the video RAM is, and map it.

        Returns:
            Whether all of its frames are there; without, it has no place.

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
        """It has no place now: nothing is mapped, so that a domain that has ended can go."""
        with self._lock:
            former, self._mapping = self._mapping, None
            self.placement = None
            if former is not None:
                former.close()

    def read_runs(self, address: int, runs: PageRuns, into: NDArray[np.uint8], base_page: int) -> None:
        """Copy whole pages, zeros while it has no place; see `AddressSpace.read_runs`.

        Not an error: having no place is how every guest begins, and begins again. One who compares could
        not even begin then, and would fail for ever without asking where it is by now.
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
        """Unmap and let go of the domain; harmless twice."""
        self.unplace()
        if self.model is not None:
            self.model.close()
            self.model = None
        self._memory.close()
