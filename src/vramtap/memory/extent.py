"""Extent: a contiguous range of pages of one address space. AddressSpace: what an address space offers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from vramtap.pages import PAGE_SIZE, PageRuns

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vramtap.memory.events import WriteEvents
    from vramtap.memory.foreign import XenFrames


class AddressSpace(Protocol):
    """Memory that can be read by address, and the ways in which its writes can be followed."""

    name: str
    """Name in messages: `pid 812`, a path."""
    pid: int | None
    """Process whose page tables map the memory, for the kernel's write log; None if not known."""
    bytes_read: int
    """Bytes copied out of the memory so far."""

    @property
    def events(self) -> WriteEvents | None:
        """Events that accompany every write; None if there are none and an idle tracker has to poll."""
        ...

    @property
    def frames(self) -> XenFrames | None:
        """Frames of a Xen domain that the memory consists of; None if it is other memory."""
        ...

    def read_runs(self, address: int, runs: PageRuns, into: NDArray[np.uint8], base_page: int) -> None:
        """Copy whole pages out of the address space.

        Args:
            address: Address of page 0 of the extent.
            runs: Pages to copy.
            into: Shape `(bytes,)`, uint8; page `p` goes to byte `(p - base_page) * PAGE_SIZE`.
            base_page: First page of `into`.

        Raises:
            TargetGone: the owner of the memory has ended.
            KernelError: a page could not be read.
        """
        ...


@dataclass(frozen=True, slots=True)
class Extent:
    """A contiguous range of pages of one address space.

    Args:
        space: The address space.
        address: First address; a multiple of `PAGE_SIZE`.
        pages: Number of pages.
    """

    space: AddressSpace
    address: int
    pages: int

    def __post_init__(self) -> None:
        if self.address % PAGE_SIZE or self.address < 0:
            raise ValueError(f"extent address {self.address:#x} is not a page boundary")
        if self.pages <= 0:
            raise ValueError(f"extent of {self.pages} pages")

    @property
    def size_bytes(self) -> int:
        """Length in bytes."""
        return self.pages * PAGE_SIZE

    @property
    def end(self) -> int:
        """First address after the extent."""
        return self.address + self.size_bytes

    def read(self, runs: PageRuns, into: NDArray[np.uint8], base_page: int = 0) -> None:
        """Copy pages of the extent into a buffer.

        Args:
            runs: Pages relative to the extent.
            into: Shape `(bytes,)`, uint8, long enough for the last run.
            base_page: First page of `into`.

        Raises:
            ValueError: a run is outside the extent or the buffer.
            TargetGone: the owner of the memory has ended.
            KernelError: a page could not be read.
        """
        if not runs:
            return
        first, last = int(runs.array[0, 0]), int(runs.array[-1, 1])
        if first < base_page or last > self.pages or (last - base_page) * PAGE_SIZE > len(into):
            raise ValueError(
                f"pages [{first}, {last}) do not fit an extent of {self.pages} or a buffer from {base_page}"
            )
        self.space.read_runs(self.address, runs, into, base_page)

    def __str__(self) -> str:
        """Return the form used in messages."""
        return f"{self.space.name} {self.address:#x}-{self.end:#x}"
