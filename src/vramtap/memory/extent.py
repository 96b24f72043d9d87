"""Extent: a contiguous run of pages of one address space, and what an address space must offer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from vramtap.pages import PAGE_SIZE, PageRuns

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class AddressSpace(Protocol):
    """Memory that can be read by address."""

    name: str
    """How messages call it: `pid 812`, a path."""
    pid: int | None
    """Whose page tables map it, for the kernel's write log; None where no single process is known."""
    bytes_read: int
    """Bytes copied out of it so far."""

    def read_runs(self, address: int, runs: PageRuns, into: NDArray[np.uint8], base_page: int) -> None:
        """Copy whole pages out of the address space.

        Args:
            address: Address of page 0 of the extent.
            runs: The pages wanted.
            into: Shape `(bytes,)`; page `p` lands at byte `(p - base_page) * PAGE_SIZE`.
            base_page: The page that `into` begins with.

        Raises:
            TargetGone: whose memory it is has ended.
            KernelError: a page could not be read.
        """
        ...


@dataclass(frozen=True, slots=True)
class Extent:
    """A contiguous run of pages of one address space that is watched.

    Args:
        space: The address space it lies in.
        address: Where it begins there; a multiple of `PAGE_SIZE`.
        pages: How many pages long it is.
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
        """First address past it."""
        return self.address + self.size_bytes

    def read(self, runs: PageRuns, into: NDArray[np.uint8], base_page: int = 0) -> None:
        """Copy these pages into a buffer that begins with page `base_page`.

        Args:
            runs: Pages relative to the extent.
            into: Shape `(bytes,)`, long enough for the last run.
            base_page: The page of the extent that `into` begins with.

        Raises:
            ValueError: a run is outside the extent or the buffer.
            TargetGone: whose memory it is has ended.
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
        """As messages name it."""
        return f"{self.space.name} {self.address:#x}-{self.end:#x}"
