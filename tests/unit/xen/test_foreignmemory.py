"""ForeignMemory: reads present frames, and never accesses missing ones."""

from __future__ import annotations

import errno

import numpy as np
import pytest

from support.fake_xen.host import VRAM_FRAME, FakeXen
from vramtap.errors import KernelError, NotFound, Refused, TargetGone, VramtapError
from vramtap.pages import PAGE_SIZE
from vramtap.xen.foreignmemory import MAX_MAPPED, ForeignMemory


def test_read_returns_current_content(xen: FakeXen) -> None:
    xen.create(3, pages=8)
    with ForeignMemory() as memory:
        mapping = memory.map(3, VRAM_FRAME, 8)
        assert mapping.missing == 0
        assert xen.mapped(3) == 8
        into = np.full(3 * PAGE_SIZE, 0xFF, dtype=np.uint8)
        for value in (1, 2):
            xen.write(3, 4, value)
            mapping.read(3, 6, into)
            assert into[PAGE_SIZE] == value
            assert np.count_nonzero(into) == 1
        mapping.close()
        mapping.close()
        assert xen.mapped(3) == 0
        with pytest.raises(VramtapError, match="read domain 3 frames 0xf0000-0xf0008: it has been unmapped"):
            mapping.read(3, 6, into)


@pytest.mark.parametrize(("domid", "first"), [(0x7FEF, 0xF_FFFF_FFFF_0000), (3, 0x1_0000_0000)])
def test_frame_numbers_are_passed_in_full_width(xen: FakeXen, domid: int, first: int) -> None:
    xen.create(domid, first=first, pages=4)
    xen.write(domid, 2, 0x77)
    with ForeignMemory() as memory:
        mapping = memory.map(domid, first, 4)
        into = np.zeros(PAGE_SIZE, dtype=np.uint8)
        mapping.read(2, 3, into)
        assert into[0] == 0x77
        mapping.close()
        shifted = memory.map(domid, first - (1 << 32), 4)
        assert shifted.missing == 4
        shifted.close()


def test_missing_frame_raises_error_without_signal(xen: FakeXen) -> None:
    xen.create(3, pages=8)
    xen.lose(3, 2)
    xen.lose(3, 6)
    into = np.zeros(8 * PAGE_SIZE, dtype=np.uint8)
    with ForeignMemory() as memory:
        mapping = memory.map(3, VRAM_FRAME, 10)
        assert mapping.missing == 4
        mapping.read(3, 6, into[: 3 * PAGE_SIZE])
        mapping.read(2, 2, into[:0])
        for first, last, page in ((2, 3, 2), (0, 8, 2), (4, 8, 6), (9, 10, 9)):
            reason = f"read domain 3 frames 0xf0000-0xf000a: page {page} is missing: EINVAL, .*placed its"
            with pytest.raises(VramtapError, match=reason):
                mapping.read(first, last, into[: (last - first) * PAGE_SIZE])
        mapping.close()


def test_unplaced_framebuffer_has_only_missing_frames(xen: FakeXen) -> None:
    xen.create(3, pages=8, first=0)
    with ForeignMemory() as memory:
        mapping = memory.map(3, VRAM_FRAME, 8)
        assert mapping.missing == 8
        mapping.close()


@pytest.mark.parametrize(("first", "last"), [(-1, 1), (0, 9), (5, 4), (9, 9)])
def test_pages_outside_mapping_are_refused(xen: FakeXen, first: int, last: int) -> None:
    xen.create(3, pages=8)
    with ForeignMemory() as memory:
        mapping = memory.map(3, VRAM_FRAME, 8)
        with pytest.raises(ValueError, match="of a mapping of 8"):
            mapping.read(first, last, np.zeros(PAGE_SIZE, dtype=np.uint8))
        mapping.close()


@pytest.mark.parametrize("frames", [0, -1, MAX_MAPPED + 1, 1 << 50])
def test_invalid_frame_count_is_refused(xen: FakeXen, frames: int) -> None:
    with ForeignMemory() as memory, pytest.raises(ValueError, match="can be mapped"):
        memory.map(3, VRAM_FRAME, frames)


def test_destroyed_domain_stays_readable_until_unmapped(xen: FakeXen) -> None:
    xen.create(3, pages=8)
    with ForeignMemory() as memory:
        mapping = memory.map(3, VRAM_FRAME, 8)
        xen.write(3, 0, 9)
        xen.destroy(3)
        into = np.zeros(PAGE_SIZE, dtype=np.uint8)
        mapping.read(0, 1, into)
        assert into[0] == 9
        with pytest.raises(
            TargetGone, match=r"xenforeignmemory_map domain 3 frames .*: the domain has ended"
        ):
            memory.map(3, VRAM_FRAME, 8)
        assert xen.mapped(3) == 8
        mapping.close()
        assert xen.mapped(3) == 0


def test_hypervisor_errors_are_raised(xen: FakeXen) -> None:
    xen.create(3, pages=8)
    with ForeignMemory() as memory:
        xen.fail("xenforeignmemory_map", errno.ENOMEM, times=1)
        with pytest.raises(KernelError, match=r"xenforeignmemory_map domain 3 frames .*ENOMEM"):
            memory.map(3, VRAM_FRAME, 8)
        mapping = memory.map(3, VRAM_FRAME, 8)
        xen.fail("xenforeignmemory_unmap", errno.EINVAL, times=1)
        with pytest.raises(KernelError, match="xenforeignmemory_unmap 8 pages: EINVAL"):
            mapping.close()


def test_failed_open_raises(xen: FakeXen) -> None:
    xen.fail("xenforeignmemory_open", errno.EPERM)
    with pytest.raises(Refused, match=r"xenforeignmemory_open: .*run as root in Xen's dom0"):
        ForeignMemory()
    xen.absent.add("libxenforeignmemory")
    with pytest.raises(NotFound, match="apt install libxenforeignmemory1"):
        ForeignMemory()


def test_closed_handle_refuses_calls(xen: FakeXen) -> None:
    memory = ForeignMemory()
    memory.close()
    memory.close()
    assert xen.handles["foreignmemory"] == 0
    with pytest.raises(VramtapError, match="use ForeignMemory: it has been closed"):
        memory.map(3, VRAM_FRAME, 1)
