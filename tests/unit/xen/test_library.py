"""Loading of Xen's libraries, and the meaning of their errno."""

from __future__ import annotations

import ctypes
import errno
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vramtap.errors import KernelError, NotFound, Refused, TargetGone, Unsupported, VramtapError
from vramtap.xen import library
from vramtap.xen.library import LIBRARIES, Handle, Library, error_for, in_dom0, quiet_logger

if TYPE_CHECKING:
    from support.fake_xen.host import FakeXen


def test_missing_library_error_names_package() -> None:
    absent = Library(("libvramtap-none.so.1", "libvramtap-none.so.0"), "libvramtap-none1")
    with pytest.raises(NotFound) as caught:
        absent.load()
    assert str(caught.value).startswith("load libvramtap-none.so.1: libvramtap-none.so.0: cannot open")
    assert "(apt install libvramtap-none1, or your distribution's Xen libraries)" in str(caught.value)
    assert all(each.package.startswith("libxen") for each in LIBRARIES)


def test_any_file_name_of_library_is_loaded() -> None:
    assert Library(("libvramtap-none.so.1", "libc.so.6"), "libc6").load().getpid() > 0
    assert Library(("libc.so.6", "libvramtap-none.so.1"), "libc6").load().getpid() > 0


def test_quiet_logger_is_created_once(xen: FakeXen) -> None:
    assert quiet_logger().value
    assert quiet_logger() is quiet_logger()
    xen.absent.add("libxentoollog")
    quiet_logger.cache_clear()
    with pytest.raises(NotFound, match="apt install libxentoollog1"):
        quiet_logger()


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENODEV, errno.ENXIO])
def test_missing_privcmd_error_says_not_dom0(
    xen: FakeXen, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    assert type(error_for("a", "b", number)) is KernelError
    monkeypatch.setattr(library, "PRIVCMD", Path("/nowhere/privcmd"))
    error = error_for("a", "b", number)
    assert type(error) is Refused
    assert (
        str(error) == "a b: /nowhere/privcmd is missing: this is not a Xen dom0 (run as root in Xen's dom0)"
    )


def test_every_errno_gives_one_line(xen: FakeXen) -> None:
    kinds = {
        number: type(error_for("call", "domain 3", number)) for number in (*errno.errorcode, 0, 9999, -5)
    }
    special = {number: kind for number, kind in kinds.items() if kind is not KernelError}
    assert special == {
        errno.ESRCH: TargetGone,
        errno.EPERM: Refused,
        errno.EACCES: Refused,
        errno.ENOSYS: Unsupported,
        errno.EOPNOTSUPP: Unsupported,
    }
    assert "\n" not in str(error_for("call", "domain 3", errno.EIO))


class Openable(ctypes.CDLL):
    """A library in Python with an open and a close function; it records the closed handles."""

    def __init__(self, address: int | None) -> None:
        self.given: list[int | None] = []

        def opens(flags: ctypes.c_uint) -> int | None:
            ctypes.set_errno(0 if address else errno.EPERM)
            return address

        def closes(handle: ctypes.c_void_p) -> None:
            self.given.append(handle.value)

        self.__dict__.update(thing_open=opens, thing_close=closes)


def test_handle_is_closed_once() -> None:
    address = 0x7F12_3456_789A
    library = Openable(address)
    with Handle(library, "thing", ctypes.c_uint(0)) as handle:
        assert handle.handle.value == address
        handle.close()
    assert library.given == [address]
    with pytest.raises(VramtapError, match="use Handle: it has been closed"):
        assert handle.handle
    with pytest.raises(Refused, match="thing_open: "):
        Handle(Openable(None), "thing", ctypes.c_uint(0))


def test_dom0_is_recognised_by_capabilities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    capabilities, privcmd = tmp_path / "capabilities", tmp_path / "privcmd"
    monkeypatch.setattr(library, "CAPABILITIES", capabilities)
    monkeypatch.setattr(library, "PRIVCMD", privcmd)
    assert not in_dom0()
    privcmd.touch()
    assert in_dom0()
    capabilities.write_text("")
    assert not in_dom0()
    capabilities.write_text("control_d\n")
    assert in_dom0()
