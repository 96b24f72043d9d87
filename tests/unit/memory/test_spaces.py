"""Address spaces: all kinds return the same bytes, and failed reads raise."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.scribe import PAGE, Scribe
from vramtap.errors import NotFound, TargetGone, VramtapError
from vramtap.memory.extent import Extent
from vramtap.memory.mapped import FileSpace
from vramtap.memory.own import OwnSpace, extent_of
from vramtap.memory.process import ProcessSpace
from vramtap.pages import PageRuns

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAGES = 32
CONTENT = np.random.default_rng(7).integers(0, 256, PAGES * PAGE, dtype=np.uint8)


@contextmanager
def own(path: Path) -> Iterator[Extent]:
    room = np.zeros((PAGES + 1) * PAGE, dtype=np.uint8)
    skip = -room.ctypes.data % PAGE
    pages = room[skip : skip + PAGES * PAGE]
    pages[:] = CONTENT
    yield extent_of(pages)[0]


@contextmanager
def process(path: Path) -> Iterator[Extent]:
    with Scribe(PAGES, str(path)) as scribe:
        space = ProcessSpace(scribe.pid)
        yield Extent(space, scribe.address, PAGES)
        space.close()


@contextmanager
def file(path: Path) -> Iterator[Extent]:
    space = FileSpace(str(path))
    assert space.size_bytes == PAGES * PAGE
    yield Extent(space, 0, PAGES)
    space.close()
    space.close()


@pytest.fixture(params=[own, process, file], ids=lambda factory: factory.__name__)
def extent(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Extent]:
    path = tmp_path / "content"
    path.write_bytes(CONTENT.tobytes())
    with request.param(path) as made:
        yield made


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pages=st.sets(st.integers(0, PAGES - 1)), base=st.integers(0, PAGES - 1))
def test_read_copies_exactly_the_requested_pages(extent: Extent, pages: set[int], base: int) -> None:
    runs = PageRuns.from_pages({page for page in pages if page >= base})
    into = np.zeros((PAGES - base) * PAGE, dtype=np.uint8)
    before = extent.space.bytes_read
    extent.read(runs, into, base)
    wanted = np.where(np.repeat(runs.to_mask(PAGES), PAGE), CONTENT, 0)[base * PAGE :]
    assert np.array_equal(into, wanted)
    assert extent.space.bytes_read - before == runs.count * PAGE


def test_read_outside_the_extent_or_the_buffer_raises(extent: Extent) -> None:
    room = np.zeros((PAGES + 8) * PAGE, dtype=np.uint8)
    for runs, into, base in (
        (PageRuns([(PAGES - 1, PAGES + 1)]), room, 0),
        (PageRuns([(3, 5)]), room[: 4 * PAGE], 0),
        (PageRuns([(3, 5)]), room, 4),
    ):
        with pytest.raises(ValueError, match="do not fit"):
            extent.read(runs, into, base)
    assert not room.any()


def test_extent_needs_whole_pages_and_prints_its_addresses(extent: Extent) -> None:
    with pytest.raises(ValueError, match="not a page boundary"):
        Extent(extent.space, extent.address + 1, 1)
    with pytest.raises(ValueError, match="0 pages"):
        Extent(extent.space, extent.address, 0)
    assert extent.size_bytes == extent.end - extent.address == PAGES * PAGE
    assert str(extent) == f"{extent.space.name} {extent.address:#x}-{extent.end:#x}"


def test_truncated_file_raises_instead_of_sigbus(tmp_path: Path) -> None:
    path = tmp_path / "content"
    path.write_bytes(CONTENT.tobytes())
    with file(path) as extent:
        os.truncate(path, 3 * PAGE)
        into = np.zeros(PAGES * PAGE, dtype=np.uint8)
        extent.read(PageRuns([(0, 3)]), into)
        with pytest.raises(TargetGone, match=f"truncated to {3 * PAGE} bytes"):
            extent.read(PageRuns([(2, 4)]), into)


def test_partial_last_page_of_a_file_is_filled_with_zeros(tmp_path: Path) -> None:
    path = tmp_path / "odd"
    path.write_bytes(b"\xff" * (PAGE + 10))
    space = FileSpace(str(path))
    into = np.full(2 * PAGE, 7, dtype=np.uint8)
    Extent(space, 0, 2).read(PageRuns([(0, 2)]), into)
    assert into[PAGE + 9] == 0xFF
    assert not into[PAGE + 10 :].any()
    assert space.bytes_read == PAGE + 10
    space.close()


def test_file_that_cannot_be_opened_raises(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no such file"):
        FileSpace(str(tmp_path / "missing"))
    with pytest.raises(VramtapError, match=str(tmp_path)):
        Extent(FileSpace(str(tmp_path)), 0, 1).read(PageRuns([(0, 1)]), np.zeros(PAGE, dtype=np.uint8))


def test_read_from_an_ended_process_raises_target_gone(tmp_path: Path) -> None:
    with Scribe(PAGES) as scribe:
        space = ProcessSpace(scribe.pid)
        extent = Extent(space, scribe.address, PAGES)
        scribe.end()
        with pytest.raises(TargetGone):
            extent.read(PageRuns([(0, 1)]), np.zeros(PAGE, dtype=np.uint8))
        space.close()


def test_extent_of_an_array_covers_it_and_gives_its_offset() -> None:
    room = np.zeros(5 * PAGE, dtype=np.uint8)
    array = room[100 : 100 + PAGE]
    extent, offset = extent_of(array)
    assert extent.address + offset == array.ctypes.data
    assert extent.end >= array.ctypes.data + array.nbytes
    assert extent.pages <= 2
    assert isinstance(extent.space, OwnSpace)


def test_array_that_cannot_be_tracked_raises() -> None:
    fixed = np.zeros(10)
    fixed.flags.writeable = False
    for array in (fixed, np.zeros(0), np.zeros((4, 4))[:, ::2]):
        with pytest.raises(ValueError, match="C-contiguous, writable and not empty"):
            extent_of(array)
