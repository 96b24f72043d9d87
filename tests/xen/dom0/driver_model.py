"""Model of the video memory: its expected content, and the pages that each write dirties."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from xen.dom0.driver_maps import PAGE

if TYPE_CHECKING:
    from collections.abc import Iterator

_PAGE_DWORDS = PAGE // 4
Pages = frozenset[int]
"""Pages counted from the start of the video memory."""


def xorshift32(state: int) -> Iterator[int]:
    """Yield the guest's random numbers after `state` (Marsaglia 2003, shifts 13, 17, 5)."""
    while True:
        state ^= state << 13 & 0xFFFFFFFF
        state ^= state >> 17
        state ^= state << 5 & 0xFFFFFFFF
        yield state


class Model:
    """A copy of the video memory that repeats the guest's writes.

    Offsets and strides are in bytes and multiples of 4.

    Attributes:
        dwords: The memory, as uint32.
    """

    def __init__(self, content: bytes) -> None:
        self.dwords: npt.NDArray[np.uint32] = np.frombuffer(content, dtype="<u4").copy()

    def resync(self, content: bytes) -> None:
        """Replace the content, after a change that the guest did not write itself, such as a new mode."""
        self.dwords = np.frombuffer(content, dtype="<u4").copy()

    def fill(self, offset: int, dwords: int, value: int) -> Pages:
        """Write `value` to `dwords` dwords from `offset`."""
        first = offset // 4
        self.dwords[first : first + dwords] = value
        return _pages(first, first + dwords)

    def strided(self, offset: int, count: int, value: int, stride: int) -> Pages:
        """Write `count` single dwords, `stride` apart."""
        places = offset // 4 + np.arange(count) * (stride // 4)
        self.dwords[places] = value
        return _pages_of(places)

    def rect(self, offset: int, width: int, height: int, value: int, pitch: int) -> Pages:
        """Write a rectangle of `width` dwords and `height` rows, `pitch` apart."""
        rows = offset // 4 + np.arange(height) * (pitch // 4)
        places = (rows[:, None] + np.arange(width)).ravel()
        self.dwords[places] = value
        return _pages_of(places)

    def scatter(self, offset: int, count: int, span: int, seed: int) -> Pages:
        """Write `count` random dwords. Each value also determines its place in `span` dwords."""
        places = np.empty(count, np.int64)
        for index, state in zip(range(count), xorshift32(seed), strict=False):
            place = places[index] = offset // 4 + (state * span >> 32)
            self.dwords[place] = state
        return _pages_of(places)

    def sum(self, offset: int, dwords: int) -> int:
        """Return the sum of the dwords modulo 2**32, which is the guest's answer to a read."""
        first = offset // 4
        return int(self.dwords[first : first + dwords].sum(dtype=np.uint64)) & 0xFFFFFFFF

    def difference(self, content: bytes, offset: int = 0) -> str | None:
        """Describe where the memory differs from the model; None if it does not.

        Args:
            content: The bytes read from the memory.
            offset: Their offset in the memory, bytes.
        """
        seen = np.frombuffer(content, dtype="<u4")
        wanted = self.dwords[offset // 4 : offset // 4 + len(seen)]
        places = np.flatnonzero(seen != wanted)
        if not len(places):
            return None
        first = int(places[0])
        return (
            f"{len(places)} dwords differ, the first at {offset + first * 4:#x} "
            f"(page {(offset + first * 4) // PAGE}): {seen[first]:#010x}, not {wanted[first]:#010x}"
        )


def _pages(first: int, end: int) -> Pages:
    return frozenset(range(first // _PAGE_DWORDS, -(-end // _PAGE_DWORDS))) if end > first else frozenset()


def _pages_of(places: npt.NDArray[np.int64]) -> Pages:
    return frozenset(np.unique(places // _PAGE_DWORDS).tolist())
