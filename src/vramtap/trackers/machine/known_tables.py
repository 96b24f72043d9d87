"""What the tracker `dirtybits` knows of a guest's page tables: what to watch, and what to doubt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from vramtap.machine.paging_reverse import MAX_TABLES, Mappings
from vramtap.trackers.base import AllDirty, Reason

if TYPE_CHECKING:
    from numpy.typing import NDArray

NO_DOUBT, _TABLE, _LARGE, _ALIASED = range(4)
"""What keeps a page in doubt; the greatest in a window is the reason given."""
NOWHERE: Final = np.uint64(1)
"""No page begins at this address."""


@dataclass(slots=True)
class KnownTables:
    """What a walk found.

    Args:
        root: The top table: CR3 without its flags.
        page: The pages of the extent that are followed: mapped by one entry of their own, int64.
        virtual: Where each page of the extent is mapped; `NOWHERE` if it is not followed. uint64.
        entry: The entries of the pages followed, in order of `page`, then all entries that map a table.
        meaning: These entries without accessed and dirty bits.
        cleared: Which of these entries had a dirty bit that was cleared.
        tables: Frames of the tables.
        doubt: For each page of the extent, what keeps it in doubt.
        mapped: Whether any of the extent is mapped.
        complete: Whether all tables were looked at; if not, there are no entries here.
    """

    root: int
    page: NDArray[np.int64]
    virtual: NDArray[np.uint64]
    entry: NDArray[np.int64]
    meaning: NDArray[np.uint64]
    cleared: NDArray[np.bool_]
    tables: NDArray[np.int64]
    doubt: NDArray[np.int8]
    mapped: bool
    complete: bool

    def verdict(self, first: int, last: int) -> AllDirty | None:
        """Why these pages of the extent are in doubt as long as the tables stay as they are."""
        if not self.complete:
            return AllDirty(Reason.ALIASED, f"page tables that are no memory, or more than {MAX_TABLES}")
        if not self.mapped:
            return AllDirty(Reason.UNMAPPED, "the guest maps no page of it")
        doubt = self.doubt[first:last]
        worst = int(doubt.max(initial=NO_DOUBT))
        page = first + int(doubt.argmax())
        if worst == _ALIASED:
            return AllDirty(Reason.ALIASED, f"page {page} is mapped by more than one entry")
        if worst == _LARGE:
            return AllDirty(Reason.LARGE_PAGE, f"page {page} is mapped by a large page")
        if worst == _TABLE:
            return AllDirty(Reason.ALIASED, f"page {page} is a page table, which the CPU writes by itself")
        return None


def understood(found: Mappings, root: int, first_frame: int, pages: int) -> KnownTables:
    """What a walk means for an extent of `pages` pages from `first_frame` on."""
    leaves = found.leaves
    small = leaves.frames == 1
    page = leaves.frame[small] - first_frame
    by_small = np.bincount(page, minlength=pages)
    # A large page adds one from its first page on and takes it away past its last.
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
    return KnownTables(
        root=root,
        page=page[follow],
        virtual=virtual,
        entry=entry,
        meaning=np.zeros(len(entry), dtype=np.uint64),
        cleared=np.zeros(len(entry), dtype=np.bool_),
        tables=found.tables,
        doubt=doubt,
        mapped=bool(len(leaves.entry)),
        complete=found.complete,
    )


def change(before: KnownTables, now: KnownTables) -> AllDirty:
    """What the guest did to its tables, as far as they still show it."""
    if before.root != now.root:
        return AllDirty(Reason.REMAPPED, f"the guest loaded the page tables at {now.root:#x}")
    was, is_now = before.virtual != NOWHERE, now.virtual != NOWHERE
    moved = np.flatnonzero(was & is_now & (before.virtual != now.virtual))
    if len(moved) or (now.mapped and not before.mapped):
        page = int(moved[0]) if len(moved) else int(is_now.argmax())
        return AllDirty(Reason.REMAPPED, f"page {page} is mapped at {int(now.virtual[page]):#x} now")
    gone = np.flatnonzero(was & ~is_now & (now.doubt == NO_DOUBT))
    if len(gone):
        return AllDirty(Reason.UNMAPPED, f"page {int(gone[0])} is mapped no more")
    return AllDirty(Reason.ALIASED, "the page tables were written meanwhile")
