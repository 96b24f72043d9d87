"""The painter writes the pages of its commands and no others, and refuses pages it does not have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from benchmarks.painter import Painter, encoded
from hypothesis import given
from hypothesis import strategies as st

from support.testbed.errors import TestbedError
from vramtap.memory.extent import Extent
from vramtap.memory.process import ProcessSpace
from vramtap.pages import PAGE_SIZE, PageRuns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

PAGES = 12


@pytest.fixture
def painter() -> Iterator[Painter]:
    with Painter(PAGES) as painter:
        yield painter


def memory(painter: Painter) -> NDArray[np.uint8]:
    """Return the painter's memory, shape `(PAGES, PAGE_SIZE)`."""
    space = ProcessSpace(painter.pid)
    try:
        into = np.empty(PAGES * PAGE_SIZE, np.uint8)
        Extent(space, painter.address, PAGES).read(PageRuns.full(PAGES), into)
        return into.reshape(PAGES, PAGE_SIZE)
    finally:
        space.close()


def test_fill_changes_every_byte_of_its_pages_and_no_other(painter: Painter) -> None:
    before = memory(painter)
    filled = painter.fill(3, 5)
    changed = memory(painter) != before
    assert changed[3:5].all()
    assert not changed[:3].any()
    assert not changed[5:].any()
    assert 0 < filled.first_us <= filled.all_us


def test_second_fill_changes_every_byte_again(painter: Painter) -> None:
    painter.fill(0, 1)
    before = memory(painter)
    painter.fill(0, 1)
    assert (memory(painter)[0] != before[0]).all()


def test_replay_writes_the_pages_of_its_frames(painter: Painter) -> None:
    before = memory(painter)
    times = painter.replay([PageRuns([(1, 3)]), PageRuns(), PageRuns([(2, 4), (7, 8)])], hz=1000)
    assert (memory(painter) != before).any(axis=1).nonzero()[0].tolist() == [1, 2, 3, 7]
    assert times.shape == (3, 3)
    assert (times[:, 0] > 0).all()
    assert set(times[:, 2].tolist()) <= {0, 1}


def test_video_paints_every_page(painter: Painter) -> None:
    before = memory(painter)
    painted = painter.video(1e-6, rounds=1)
    assert painted.frames >= 1
    assert painted.took_s > 0
    assert painted.per_cpu_s > 0
    assert (memory(painter) != before).any(axis=1).all()


@pytest.mark.parametrize("runs", [[(0, PAGES + 1)], [(PAGES, PAGES + 2)]])
def test_replay_beyond_the_last_page_is_refused(painter: Painter, runs: list[tuple[int, int]]) -> None:
    with pytest.raises(TestbedError, match="instead of REPLAYED"):
        painter.replay([PageRuns(runs)], hz=60)


@pytest.mark.parametrize(("first", "last"), [(0, PAGES + 1), (3, 3), (4, 3)])
def test_fill_of_an_invalid_range_is_refused(painter: Painter, first: int, last: int) -> None:
    with pytest.raises(TestbedError, match="instead of FILLED"):
        painter.fill(first, last)


def test_target_string_of_the_painter(painter: Painter) -> None:
    assert painter.url == f"pid:{painter.pid}?address={painter.address:#x}&mode=1024x{PAGES}&stride=4096"
    assert Painter.of_screen(1920, 1080).pages == 2025


@given(st.lists(st.sets(st.integers(0, 200)), max_size=20))
def test_frames_are_encoded_with_counts_before_items(frames: list[set[int]]) -> None:
    words = np.frombuffer(encoded([PageRuns.from_pages(frame) for frame in frames]), np.uint32).tolist()
    found, at = [], 1
    while at < len(words):
        ends = words[at + 1 : at + 1 + 2 * words[at]]
        runs = [range(first, last) for first, last in zip(ends[::2], ends[1::2], strict=True)]
        found.append({page for run in runs for page in run})
        at += 1 + 2 * words[at]
    assert words[0] == len(frames)
    assert found == frames
