"""PageRuns: a set of pages as sorted ranges, the answer of every tracker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

PAGE_SIZE: Final = 4096
"""Bytes of a page: the smallest mapping of x86-64, and the unit of every log that vramtap reads."""

FEW: Final = 32
"""Number of runs up to which plain Python is faster than numpy. In every scan of an event loop the caches
are cold: a call of numpy takes 3-5 us then, and one set operation makes a dozen of them (190 us measured)."""

_Pairs = list[list[int]]


class PageRuns:
    """Sorted, disjoint, non-adjacent, half-open `[first, last)` page ranges relative to an extent.

    Immutable. Two sets of the same pages always compare equal, because touching runs are merged.

    Args:
        runs: Pairs `(first, last)` in any order, overlapping or not, or an int64 array of shape `(n, 2)`.
        Empty
            pairs are dropped.

    Raises:
        ValueError: a pair is reversed or negative.
    """

    __slots__ = ("_runs",)

    def __init__(self, runs: Iterable[tuple[int, int]] | NDArray[np.int64] = ()) -> None:
        if not isinstance(runs, np.ndarray):
            runs = list(runs)
            if len(runs) <= FEW:
                self._runs = _frozen(_merged(_checked(runs)))
                return
        array = runs if isinstance(runs, np.ndarray) else np.array(runs, dtype=np.int64)
        array = array.reshape(-1, 2).astype(np.int64, copy=True)
        if array.size and (array.min() < 0 or (array[:, 0] > array[:, 1]).any()):
            raise ValueError(f"page runs must be 0 <= first <= last, got {array.tolist()[:4]}")
        self._runs = _canonical(array)
        self._runs.flags.writeable = False

    @classmethod
    def _of(cls, pairs: _Pairs) -> PageRuns:
        """Return the set of pairs that are already sorted, disjoint and non-adjacent."""
        if not pairs:
            return NO_PAGES
        made = cls.__new__(cls)
        made._runs = _frozen(pairs)
        return made

    @classmethod
    def full(cls, pages: int) -> PageRuns:
        """Return all pages of an extent of `pages` pages."""
        return cls([(0, pages)])

    @classmethod
    def from_pages(cls, indices: Iterable[int] | NDArray[np.int64]) -> PageRuns:
        """Return the set of these page indices, in any order, repeated or not."""
        array = np.unique(np.fromiter(indices, dtype=np.int64))
        return cls(np.stack([array, array + 1], axis=1))

    @classmethod
    def from_mask(cls, mask: NDArray[np.bool_]) -> PageRuns:
        """Return the pages where `mask`, shape `(pages,)`, is true."""
        edges = np.flatnonzero(np.diff(mask.astype(np.int8), prepend=0, append=0))
        return cls(edges.astype(np.int64).reshape(-1, 2))

    @classmethod
    def from_bitmap(cls, bitmap: bytes | bytearray | memoryview, pages: int) -> PageRuns:
        """Return the pages of a dirty bitmap, whose first page is the lowest bit, as in KVM and Xen on x86.

        Args:
            bitmap: One bit for each page.
            pages: Number of pages to take.

        Raises:
            ValueError: the bitmap holds fewer than `pages` bits.
        """
        bits = np.unpackbits(np.frombuffer(bitmap, dtype=np.uint8), bitorder="little")
        if len(bits) < pages:
            raise ValueError(f"a bitmap of {len(bits)} bits is too short for {pages} pages")
        return cls.from_mask(bits[:pages].astype(np.bool_))

    def to_mask(self, pages: int) -> NDArray[np.bool_]:
        """Return one boolean for each page, shape `(pages,)`, without the pages past the end."""
        steps = np.zeros(pages + 1, dtype=np.int8)
        clipped = np.minimum(self._runs, pages)
        np.add.at(steps, clipped[:, 0], 1)
        np.add.at(steps, clipped[:, 1], -1)
        return np.cumsum(steps[:pages]).astype(np.bool_)

    @property
    def count(self) -> int:
        """Number of pages in the set."""
        return int((self._runs[:, 1] - self._runs[:, 0]).sum())

    @property
    def array(self) -> NDArray[np.int64]:
        """The runs as a read-only int64 array of shape `(n, 2)`."""
        return self._runs

    def union(self, other: PageRuns) -> PageRuns:
        """Return the pages in either set."""
        if not other:
            return self
        if not self:
            return other
        if len(self) + len(other) <= FEW:
            return PageRuns._of(_merged(self._runs.tolist() + other._runs.tolist()))
        return PageRuns(np.concatenate([self._runs, other._runs]))

    def intersection(self, other: PageRuns) -> PageRuns:
        """Return the pages in both sets."""
        if not self or not other:
            return NO_PAGES
        if len(self) + len(other) <= FEW:
            return PageRuns._of(_common(self._runs.tolist(), other._runs.tolist()))
        end = max(self._end, other._end)
        return PageRuns.from_mask(self.to_mask(end) & other.to_mask(end))

    def difference(self, other: PageRuns) -> PageRuns:
        """Return the pages in this set and not in the other."""
        if not self or not other:
            return self
        if len(self) + len(other) <= FEW:
            return PageRuns._of(_less(self._runs.tolist(), other._runs.tolist()))
        end = max(self._end, other._end)
        return PageRuns.from_mask(self.to_mask(end) & ~other.to_mask(end))

    def clip(self, first: int, last: int) -> PageRuns:
        """Return the pages in `[first, last)`, with the same indices."""
        if not self or (self._runs[0, 0] >= first and self._runs[-1, 1] <= last):
            return self
        runs = np.clip(self._runs, first, last)
        return PageRuns(runs[runs[:, 0] < runs[:, 1]])

    def shift(self, pages: int) -> PageRuns:
        """Return the set with `pages` added to every index."""
        return PageRuns(self._runs + pages)

    @property
    def _end(self) -> int:
        return int(self._runs[-1, 1]) if len(self._runs) else 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((int(first), int(last)) for first, last in self._runs)

    def __len__(self) -> int:
        return len(self._runs)

    def __bool__(self) -> bool:
        return len(self._runs) > 0

    def __contains__(self, page: object) -> bool:
        if not isinstance(page, (int, np.integer)):
            return False
        at = int(np.searchsorted(self._runs[:, 0], page, side="right")) - 1
        return at >= 0 and bool(page < self._runs[at, 1])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PageRuns) and np.array_equal(self._runs, other._runs)

    def __hash__(self) -> int:
        return hash(self._runs.tobytes())

    def __repr__(self) -> str:
        return f"PageRuns({[(first, last) for first, last in self]})"


def _frozen(pairs: _Pairs) -> NDArray[np.int64]:
    array = np.array(pairs, dtype=np.int64) if pairs else np.empty((0, 2), dtype=np.int64)
    array.flags.writeable = False
    return array


def _checked(pairs: Iterable[tuple[int, int]]) -> _Pairs:
    checked = [[int(first), int(last)] for first, last in pairs]
    for first, last in checked:
        if not 0 <= first <= last:
            raise ValueError(f"page runs must be 0 <= first <= last, got {checked[:4]}")
    return checked


def _merged(pairs: _Pairs) -> _Pairs:
    """Return the pairs sorted, without empty ones, overlapping or touching ones merged."""
    merged: _Pairs = []
    for first, last in sorted(pairs):
        if merged and first <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], last)
        elif first < last:
            merged.append([first, last])
    return merged


def _common(runs: _Pairs, others: _Pairs) -> _Pairs:
    """Return the pages in both of two canonical lists."""
    common, at = [], 0
    for first, last in runs:
        while at < len(others) and others[at][1] <= first:
            at += 1
        here = at
        while here < len(others) and others[here][0] < last:
            common.append([max(first, others[here][0]), min(last, others[here][1])])
            here += 1
    return common


def _less(runs: _Pairs, others: _Pairs) -> _Pairs:
    """Return the pages in the first of two canonical lists and not in the second."""
    left, at = [], 0
    for first, last in runs:
        while at < len(others) and others[at][1] <= first:
            at += 1
        here = at
        while first < last and here < len(others) and others[here][0] < last:
            if first < others[here][0]:
                left.append([first, others[here][0]])
            first = others[here][1]
            here += 1
        if first < last:
            left.append([first, last])
    return left


def _canonical(runs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the pairs sorted, without empty ones, overlapping or touching ones merged."""
    runs = runs[runs[:, 0] < runs[:, 1]]
    if len(runs) < 2:
        return runs
    runs = runs[np.argsort(runs[:, 0], kind="stable")]
    ends = np.maximum.accumulate(runs[:, 1])
    starts_new = np.concatenate([[True], runs[1:, 0] > ends[:-1]])
    ends_here = np.concatenate([starts_new[1:], [True]])
    return np.stack([runs[starts_new, 0], ends[ends_here]], axis=1)


NO_PAGES: Final = PageRuns()
"""The empty set."""
