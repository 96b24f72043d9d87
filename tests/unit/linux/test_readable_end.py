"""readable_end: the end of readable memory without a gap."""

from __future__ import annotations

import pytest

from vramtap.linux.procfs import Mapping, readable_end


def mapping(start: int, end: int, perms: str = "rw-p") -> Mapping:
    return Mapping(start, end, perms, 0, "00:00", 0, "")


MAPPINGS = [
    mapping(1, 3),
    mapping(3, 5, "r--s"),
    mapping(5, 6, "---p"),
    mapping(7, 9),
    mapping(9, 10, "-wxp"),
]


@pytest.mark.parametrize(
    ("start", "end"), [(0, 0), (1, 5), (2, 5), (4, 5), (5, 5), (6, 6), (7, 9), (8, 9), (9, 9), (99, 99)]
)
def test_readable_end_joins_neighbours_and_stops_at_gaps(start: int, end: int) -> None:
    assert readable_end(MAPPINGS, start) == end
