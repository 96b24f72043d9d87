"""A modelled guest and a tracker of its dirty bits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.dirtybits import started
from support.paged_soft_guest import PagedGuest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vramtap.trackers.machine.dirtybits import DirtyBitsTracker


@pytest.fixture
def guest() -> PagedGuest:
    return PagedGuest()


@pytest.fixture
def tracker(guest: PagedGuest) -> Iterator[DirtyBitsTracker]:
    with started(guest.extent) as tracker:
        yield tracker
