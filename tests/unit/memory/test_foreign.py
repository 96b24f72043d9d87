"""XenSpace: reads of video RAM that is placed, moved or removed."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import numpy as np
import pytest

from support.fake_xen.host import VRAM_FRAME, FakeXen, fake_xen
from vramtap.errors import KernelError, TargetGone
from vramtap.linux.schedstat import SchedstatProbe
from vramtap.memory.extent import Extent
from vramtap.memory.foreign import XenSpace
from vramtap.pages import PAGE_SIZE, PageRuns
from vramtap.xen.foreignmemory import ForeignMemory

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGES = 16


@pytest.fixture
def xen() -> Iterator[FakeXen]:
    with fake_xen() as xen:
        xen.create(3, pages=PAGES)
        yield xen


@pytest.fixture
def space(xen: FakeXen) -> Iterator[XenSpace]:
    space = XenSpace(ForeignMemory(), PAGES, "domain a (id 3)", "uuid")
    yield space
    space.close()
    space.close()
    assert xen.mapped(3) == 0


def read(space: XenSpace, *runs: tuple[int, int], base: int = 0) -> list[int]:
    """Return the first byte of each page of a buffer that begins with page `base`; 0xEE if not written."""
    into = np.full(PAGES * PAGE_SIZE, 0xEE, dtype=np.uint8)
    Extent(space, 0, PAGES).read(PageRuns(runs), into, base)
    return [int(byte) for byte in into[::PAGE_SIZE]]


def test_read_puts_each_page_at_its_place_in_the_buffer(xen: FakeXen, space: XenSpace) -> None:
    assert space.place(3, VRAM_FRAME)
    for page in range(PAGES):
        xen.write(3, page, page + 1)
    assert read(space, (0, PAGES)) == list(range(1, PAGES + 1))
    assert read(space, (4, 6), (9, 10), base=4) == [5, 6, 0xEE, 0xEE, 0xEE, 10, *[0xEE] * 10]
    assert space.bytes_read == (PAGES + 3) * PAGE_SIZE
    into = np.zeros(2 * PAGE_SIZE, dtype=np.uint8)
    Extent(space, 8 * PAGE_SIZE, 8).read(PageRuns([(3, 5)]), into, 3)
    assert into[::PAGE_SIZE].tolist() == [12, 13], "the extent begins in the middle of the space"


def test_read_without_placement_returns_zeros(xen: FakeXen, space: XenSpace) -> None:
    xen.write(3, 0, 7)
    for _ in range(2):
        space.unplace()
        assert space.placement is None
        assert read(space, (0, 2)) == [0, 0, *[0xEE] * (PAGES - 2)]
        assert space.place(3, VRAM_FRAME)
        assert read(space, (0, 1))[0] == 7


def test_framebuffer_with_missing_frames_has_no_placement(xen: FakeXen, space: XenSpace) -> None:
    xen.place(3, 0)
    assert not space.place(3, VRAM_FRAME)
    assert space.placement is None
    xen.place(3, VRAM_FRAME)
    xen.lose(3, PAGES - 1)
    assert not space.place(3, VRAM_FRAME)
    assert xen.mapped(3) == 0
    xen.lose(3, PAGES - 1, absent=False)
    assert space.place(3, VRAM_FRAME)
    assert not space.place(3, VRAM_FRAME + 8)
    assert (space.placement, xen.mapped(3)) == (None, 0), "the frames have left the former location"


def test_read_follows_the_framebuffer_to_a_new_location(xen: FakeXen, space: XenSpace) -> None:
    assert space.place(3, VRAM_FRAME)
    first = space.placement
    assert space.place(3, VRAM_FRAME)
    assert space.placement is first, "a new object only after a move"
    xen.write(3, 5, 0x55)
    xen.place(3, 0xE_0000)
    assert space.place(3, 0xE_0000)
    assert space.placement is not first
    assert read(space, (5, 6))[5] == 0x55
    assert xen.mapped(3) == PAGES
    xen.create(4, pages=PAGES)
    xen.write(4, 5, 0x44)
    assert space.place(4, VRAM_FRAME)
    assert read(space, (5, 6))[5] == 0x44
    assert (xen.mapped(3), xen.mapped(4)) == (0, PAGES)


def test_placement_after_unplace_is_a_new_object(xen: FakeXen, space: XenSpace) -> None:
    assert space.place(3, VRAM_FRAME)
    first = space.placement
    space.unplace()
    assert space.place(3, VRAM_FRAME)
    assert space.placement is not first


def test_refused_mapping_raises(xen: FakeXen, space: XenSpace) -> None:
    xen.fail("xenforeignmemory_map", errno.ENOMEM, times=1)
    with pytest.raises(KernelError, match="xenforeignmemory_map domain 3"):
        space.place(3, VRAM_FRAME)
    assert space.placement is None
    xen.destroy(3)
    with pytest.raises(TargetGone):
        space.place(3, VRAM_FRAME)


def test_unplace_unmaps_a_domain_that_has_ended(xen: FakeXen, space: XenSpace) -> None:
    assert space.place(3, VRAM_FRAME)
    xen.write(3, 1, 7)
    xen.destroy(3)
    assert read(space, (1, 2))[1] == 7
    space.unplace()
    assert xen.mapped(3) == 0


def test_close_closes_the_device_models_probe(xen: FakeXen) -> None:
    space = XenSpace(ForeignMemory(), PAGES, "domain a", "uuid")
    space.model = clock = SchedstatProbe(os.getpid())
    space.close()
    assert clock.fileno() == -1
    assert space.model is None
