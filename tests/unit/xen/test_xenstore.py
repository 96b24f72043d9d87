"""Xenstore: any stored value reads as a string or a list, and any failure as a vramtap error."""

from __future__ import annotations

import errno
import select
from typing import TYPE_CHECKING

import pytest

from vramtap.errors import KernelError, NotFound, Refused, VramtapError
from vramtap.xen.xenstore import MAX_VALUE_BYTES, Xenstore

if TYPE_CHECKING:
    from support.fake_xen.host import FakeXen

HOSTILE = [
    (b"", ""),
    (b"\xff\xfe\x00\x80", "\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}\x00\N{REPLACEMENT CHARACTER}"),
    (b"\x1b[2J\r\n", "\x1b[2J\r\n"),
    ("näme".encode(), "näme"),
    (b"x" * MAX_VALUE_BYTES, "x" * MAX_VALUE_BYTES),
    (b"x" * (MAX_VALUE_BYTES + 1000), "x" * MAX_VALUE_BYTES),
]


@pytest.mark.parametrize(("data", "text"), HOSTILE)
def test_value_is_text_of_bounded_length(xen: FakeXen, data: bytes, text: str) -> None:
    xen.store("/local/domain/3/name", data)
    with Xenstore() as store:
        assert store.read("/local/domain/3/name") == text


def test_missing_paths_are_none_or_empty(xen: FakeXen) -> None:
    xen.store("/local/domain/3/name", "a")
    with Xenstore() as store:
        assert store.read("/local/domain/3") is None
        assert store.read("/local/domain/3/nam") is None
        assert store.children("/local/domain/4") == []
        assert store.children("/local/domain/3/name") == []


def test_children_lists_names(xen: FakeXen) -> None:
    for domid in (0, 3, 17):
        xen.store(f"/local/domain/{domid}/name", "a")
        xen.store(f"/local/domain/{domid}/vm", "b")
    xen.store(b"/local/domain/\xff\xff/name".decode("latin-1"), "a")
    with Xenstore() as store:
        assert set(store.children("/local/domain")) == {"0", "3", "17", "ÿÿ"}
        assert sorted(store.children("/local/domain/17")) == ["name", "vm"]


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.EINVAL, errno.ENOTDIR])
def test_unreadable_paths_are_none_or_empty(xen: FakeXen, number: int) -> None:
    xen.store("/a/b", "c")
    with Xenstore() as store:
        xen.fail("xs_read", number)
        assert store.read("/a/b") is None
        xen.fail("xs_directory", number)
        assert store.children("/a") == []


@pytest.mark.parametrize("number", [errno.EIO, errno.EPIPE, errno.EBADF])
def test_lost_connection_raises_errno(xen: FakeXen, number: int) -> None:
    with Xenstore() as store:
        for function, call in (
            ("xs_read", lambda: store.read("/a")),
            ("xs_directory", lambda: store.children("/a")),
            ("xs_watch", lambda: store.watch("/a")),
            ("xs_check_watch", store.changed),
        ):
            xen.fail(function, number)
            with pytest.raises(KernelError, match=f"{function} .*{errno.errorcode[number]}") as caught:
                call()
            assert caught.value.errno == number


def readable(store: Xenstore) -> bool:
    return bool(select.select([store.fileno()], [], [], 0)[0])


def test_changed_reports_watched_paths(xen: FakeXen) -> None:
    with Xenstore() as store:
        assert store.changed() == []
        store.watch("@releaseDomain")
        store.watch("/local/domain/0/device-model")
        assert readable(store)
        assert store.changed() == ["@releaseDomain", "/local/domain/0/device-model"]
        assert not readable(store)
        xen.store("/local/domain/0/device-model/3/state", "running")
        xen.store("/local/domain/0/device-models", "another")
        xen.fire("@releaseDomain")
        xen.fire("@introduceDomain")
        assert readable(store)
        assert store.changed() == ["/local/domain/0/device-model/3/state", "@releaseDomain"]
        assert store.changed() == []
        assert not readable(store)
        for _ in range(200):
            xen.fire("@releaseDomain")
        assert store.changed() == ["@releaseDomain"] * 200


def test_failed_watch_raises(xen: FakeXen) -> None:
    with Xenstore() as store:
        for _ in range(8):
            store.watch("/a")
        with pytest.raises(KernelError, match="xs_watch /a: E2BIG"):
            store.watch("/a")
        xen.fail("xs_fileno", 0)
        with pytest.raises(VramtapError, match="xs_fileno xenstored: the library returned no descriptor"):
            store.fileno()


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOENT, "xs_open xenstored: xenstored does not listen .run as root in Xen's dom0"),
        (errno.ECONNREFUSED, "xs_open xenstored: xenstored does not listen .run as root in Xen's dom0"),
        (errno.EACCES, "xs_open: Permission denied .run as root in Xen's dom0"),
    ],
)
def test_failed_open_raises(xen: FakeXen, number: int, message: str) -> None:
    xen.fail("xs_open", number)
    with pytest.raises(Refused, match=message):
        Xenstore()


def test_closed_store_refuses_calls(xen: FakeXen) -> None:
    store = Xenstore()
    store.watch("/a")
    store.close()
    store.close()
    assert xen.handles["xenstore"] == 0
    for call in (
        lambda: store.read("/a"),
        lambda: store.children("/a"),
        lambda: store.watch("/a"),
        store.fileno,
        store.changed,
    ):
        with pytest.raises(VramtapError, match="use Xenstore: it has been closed"):
            call()


def test_missing_library_error_names_package(xen: FakeXen) -> None:
    xen.absent.add("libxenstore")
    with pytest.raises(NotFound, match="apt install libxenstore4"):
        Xenstore()
