"""DeviceModel: arguments reach the library unchanged, and it reports the written frames."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import numpy as np
import pytest

from support.fake_xen.host import VRAM_FRAME, FakeXen
from vramtap.errors import KernelError, NotFound, Refused, TargetGone, Unsupported, VramtapError
from vramtap.pages import PageRuns
from vramtap.xen.devicemodel import MAX_PAGES, DeviceModel

if TYPE_CHECKING:
    from numpy.typing import NDArray


def bitmap(frames: int = 64) -> NDArray[np.uint8]:
    return np.zeros((frames + 7) // 8, dtype=np.uint8)


def ask(model: DeviceModel, domid: int = 3, first: int = VRAM_FRAME, frames: int = 64) -> PageRuns:
    bits = bitmap(frames)
    assert model.track_dirty_vram(domid, first, frames, bits)
    return PageRuns.from_bitmap(bits.data, frames)


def test_written_frames_are_reported_once(xen: FakeXen) -> None:
    xen.create(3)
    with DeviceModel() as model:
        assert ask(model) == PageRuns.full(64), "the first result is all frames"
        assert not ask(model)
        for page in (0, 7, 8, 63):
            xen.write(3, page)
        assert ask(model) == PageRuns.from_pages([0, 7, 8, 63])
        assert not ask(model)
        xen.write(3, 20)
        assert ask(model, frames=63) == PageRuns.full(63), "another range restarts tracking"


def test_first_call_under_shadow_paging_returns_false(xen: FakeXen) -> None:
    xen.create(3, hap=False)
    with DeviceModel() as model:
        bits = bitmap()
        bits[3] = 0x5A
        assert not model.track_dirty_vram(3, VRAM_FRAME, 64, bits)
        assert bits.tolist() == [0, 0, 0, 0x5A, 0, 0, 0, 0]
        xen.write(3, 9)
        assert ask(model) == PageRuns.from_pages([9])


@pytest.mark.parametrize(
    ("domid", "first", "frames"),
    [(0x7FEF, 0xFF_FFFF_0000, 64), (1, 0x1_0000_0000, 1), (3, 0, MAX_PAGES)],
)
def test_arguments_are_passed_in_full_width(xen: FakeXen, domid: int, first: int, frames: int) -> None:
    xen.create(domid, first=first, pages=frames)
    with DeviceModel() as model:
        ask(model, domid, first, frames)
        calls = xen.log_calls
        assert (calls.domid, calls.first, calls.frames) == (domid, first, frames)
        assert xen.tracked(domid)


@pytest.mark.parametrize("frames", [0, -1, MAX_PAGES + 1, 1 << 40])
def test_range_too_long_for_one_call_is_refused(xen: FakeXen, frames: int) -> None:
    with DeviceModel() as model, pytest.raises(ValueError, match="one call takes 1 to 32768"):
        model.track_dirty_vram(3, 0, frames, bitmap(1 << 17))
    assert xen.log_calls.reads == 0


def test_bitmap_that_would_overflow_is_refused(xen: FakeXen) -> None:
    xen.create(3)
    with DeviceModel() as model:
        for frames, bits in ((65, bitmap(64)), (64, bitmap(256)[::2])):
            with pytest.raises(ValueError, match="bytes does not hold"):
                model.track_dirty_vram(3, 0, frames, bits)
        for first in (-1, 1 << 40, 1 << 64):
            with pytest.raises(ValueError, match="frames from"):
                model.track_dirty_vram(3, first, 1, bitmap())
    assert xen.log_calls.reads == 0


def test_stop_ends_tracking(xen: FakeXen) -> None:
    xen.create(3)
    with DeviceModel() as model:
        ask(model)
        assert xen.tracked(3)
        for _ in range(2):
            model.stop_dirty_vram(3)
            assert not xen.tracked(3)
        assert xen.log_calls.stops == 2
        xen.write(3, 5)
        assert ask(model) == PageRuns.full(64)


ERRNOS = [
    (errno.ESRCH, TargetGone, "the domain has ended"),
    (errno.EPERM, Refused, "run as root in Xen's dom0"),
    (errno.EACCES, Refused, "run as root in Xen's dom0"),
    (errno.E2BIG, KernelError, "at most 32,768 pages"),
    (errno.ENOSYS, Unsupported, "vramtap doctor"),
    (errno.EOPNOTSUPP, Unsupported, "vramtap doctor"),
    (errno.EFAULT, KernelError, "EFAULT"),
    (errno.EINVAL, KernelError, "EINVAL"),
    (errno.EBUSY, KernelError, "EBUSY"),
]


@pytest.mark.parametrize(("number", "kind", "message"), ERRNOS)
def test_each_errno_maps_to_error_class(
    xen: FakeXen, number: int, kind: type[VramtapError], message: str
) -> None:
    xen.create(3)
    xen.fail("xendevicemodel_track_dirty_vram", number)
    with DeviceModel() as model:
        with pytest.raises(kind, match=message) as caught:
            ask(model)
        assert caught.type is kind
        assert "xendevicemodel_track_dirty_vram domain 3 frames 0xf0000-0xf0040" in str(caught.value)
        with pytest.raises(kind, match="domain 3, to stop") as caught:
            model.stop_dirty_vram(3)
        assert "\n" not in str(caught.value)


def test_destroyed_domain_raises_target_gone(xen: FakeXen) -> None:
    xen.create(3)
    with DeviceModel() as model:
        ask(model)
        xen.destroy(3)
        for call in (lambda: ask(model), lambda: model.stop_dirty_vram(3)):
            with pytest.raises(TargetGone):
                call()


def test_failed_open_raises(xen: FakeXen) -> None:
    xen.fail("xendevicemodel_open", errno.EACCES)
    with pytest.raises(Refused, match=r"xendevicemodel_open: Permission denied \(run as root in Xen's dom0"):
        DeviceModel()
    xen.absent.add("libxendevicemodel")
    with pytest.raises(NotFound, match="apt install libxendevicemodel1"):
        DeviceModel()


def test_closed_handle_refuses_calls(xen: FakeXen) -> None:
    model = DeviceModel()
    assert xen.handles["devicemodel"] == 1
    model.close()
    model.close()
    assert xen.handles["devicemodel"] == 0
    with pytest.raises(VramtapError, match="use DeviceModel: it has been closed"):
        ask(model)
    with pytest.raises(VramtapError, match="it has been closed"):
        model.stop_dirty_vram(3)
