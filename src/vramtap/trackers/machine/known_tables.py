"""What the tracker `dirtybits` knows of a guest's page tables: entries to watch, and pages in doubt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from vramtap.machine.paging_reverse import MAX_TABLES, Mappings
from vramtap.trackers.base import AllDirty, Reason

if TYPE_CHECKING:
    from numpy.typing import NDArray

NO_DOUBT, _TABLE, _LARGE, _ALIASED = range(4)
"""Why a page is in doubt. The greatest value in a window is the reason that the tracker reports."""
NOWHERE: Final = np.uint64(1)
"""Stands for "not mapped": no page begins at this address."""


@dataclass(slots=True)
class KnownTables:
    """Result of a walk.

    Args:
        root: Guest-physical address of the top table: CR3 without its flags.
        page: Pages of the extent that are followed: one entry maps each, and only it. int64.
        virtual: Virtual address of each page of the extent; `NOWHERE` if the page is not followed. uint64.
        entry: Guest-physical addresses of the entries of `page`, in that order, then of all entries that map
            a table. int64.
        guest_bits: These entries without accessed and dirty bits. uint64.
        cleared: Whether the tracker cleared a dirty bit of the entry. bool, as long as `entry`.
        tables: Frames of the tables. int64.
        doubt: For each page of the extent, why it is in doubt. int8.
        mapped: Whether any page of the extent is mapped.
        complete: Whether the walk read all tables; if not, `entry` is empty.
    """

    root: int
    page: NDArray[np.int64]
    virtual: NDArray[np.uint64]
    entry: NDArray[np.int64]
    guest_bits: NDArray[np.uint64]
    cleared: NDArray[np.bool_]
    tables: NDArray[np.int64]
    doubt: NDArray[np.int8]
    mapped: bool
    complete: bool

    @classmethod
    def from_walk(cls, found: Mappings, root: int, first_frame: int, pages: int) -> Self:
        """Return what a walk says about an extent.

        Args:
            found: What maps the extent, and what maps the tables.
            root: Guest-physical address of the top table.
            first_frame: First frame of the extent.
            pages: Length of the extent.
        """
        leaves = found.leaves
        small = leaves.frames == 1
        page = leaves.frame[small] - first_frame
        by_small = np.bincount(page, minlength=pages)
        # A large page adds one at its first page and subtracts one after its last page.
        begin = np.clip(leaves.frame[~small] - first_frame, 0, pages)
        end = np.clip(leaves.frame[~small] + leaves.frames[~small] - first_frame, 0, pages)
        steps = np.bincount(begin, minlength=pages + 1) - np.bincount(end, minlength=pages + 1)
        by_large = np.cumsum(steps[:pages])
        doubt = np.full(pages, NO_DOUBT, dtype=np.int8)
        inside = (found.tables >= first_frame) & (found.tables < first_frame + pages)
        doubt[found.tables[inside] - first_frame] = _TABLE
        doubt[by_large > 0] = _LARGE
        doubt[by_small + by_large > 1] = _ALIASED
        follow = (doubt[page] == NO_DOUBT) & found.complete
        virtual = np.full(pages, NOWHERE, dtype=np.uint64)
        virtual[page[follow]] = leaves.virtual[small][follow]
        of_tables = found.table_leaves.entry if found.complete else found.table_leaves.entry[:0]
        entry = np.concatenate([leaves.entry[small][follow], of_tables])
        return cls(
            root=root,
            page=page[follow],
            virtual=virtual,
            entry=entry,
            guest_bits=np.zeros(len(entry), dtype=np.uint64),
            cleared=np.zeros(len(entry), dtype=np.bool_),
            tables=found.tables,
            doubt=doubt,
            mapped=bool(len(leaves.entry)),
            complete=found.complete,
        )

    def doubt_in(self, first: int, last: int) -> AllDirty | None:
        """Return why pages `[first, last)` of the extent stay in doubt while the tables do not change."""
        if not self.complete:
            return AllDirty(
                Reason.ALIASED, f"page tables outside RAM and video RAM, or more than {MAX_TABLES} of them"
            )
        if not self.mapped:
            return AllDirty(Reason.UNMAPPED, "the guest maps no page of it")
        doubt = self.doubt[first:last]
        worst = int(doubt.max(initial=NO_DOUBT))
        page = first + int(doubt.argmax())
        if worst == _ALIASED:
            return AllDirty(Reason.ALIASED, f"more than one entry maps page {page}")
        if worst == _LARGE:
            return AllDirty(Reason.LARGE_PAGE, f"a large page maps page {page}")
        if worst == _TABLE:
            return AllDirty(Reason.ALIASED, f"page {page} is a page table, which the CPU itself writes")
        return None


def describe_change(before: KnownTables, now: KnownTables) -> AllDirty:
    """Return what the guest did to its tables between two walks, as far as the tables still show it."""
    if before.root != now.root:
        return AllDirty(Reason.REMAPPED, f"the guest loaded the page tables at {now.root:#x}")
    was, is_now = before.virtual != NOWHERE, now.virtual != NOWHERE
    moved = np.flatnonzero(was & is_now & (before.virtual != now.virtual))
    if len(moved) or (now.mapped and not before.mapped):
        page = int(moved[0]) if len(moved) else int(is_now.argmax())
        return AllDirty(Reason.REMAPPED, f"page {page} is now mapped at {int(now.virtual[page]):#x}")
    gone = np.flatnonzero(was & ~is_now & (now.doubt == NO_DOUBT))
    if len(gone):
        return AllDirty(Reason.UNMAPPED, f"page {int(gone[0])} is no longer mapped")
    return AllDirty(Reason.ALIASED, "the guest wrote its page tables since the last scan")
