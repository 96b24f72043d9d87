"""Domains read from xenstore, with valid, missing and hostile values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vramtap.xen import domains
from vramtap.xen.domains import MAX_DOMID, Domain
from vramtap.xen.xenstore import Xenstore

if TYPE_CHECKING:
    from support.fake_xen.host import FakeXen

UUID = "6f1e6a2c-9d1c-4d4b-8a5e-0123456789ab"


def listed(
    xen: FakeXen,
    domid: int | str,
    name: str | bytes = "debian",
    vm: str | bytes = f"/vm/{UUID}",
    pid: str | bytes = "812",
) -> None:
    place = f"/local/domain/{domid}"
    xen.store(f"{place}/name", name)
    xen.store(f"{place}/vm", vm)
    xen.store(f"{place}/image/device-model-pid", pid)


def test_domain_is_read_as_toolstack_writes_it(xen: FakeXen) -> None:
    listed(xen, 3)
    with Xenstore() as store:
        found = domains.domain(store, 3)
        assert found == Domain(3, "debian", UUID, 812)
        assert str(found) == "domain debian (id 3)"
        assert domains.domain(store, 4) is None
    assert domains.model_state_path(3) == "/local/domain/0/device-model/3/state"


def test_missing_values_are_empty(xen: FakeXen) -> None:
    xen.store("/local/domain/3/name", "bare")
    xen.store("/local/domain/4/vm", "nameless")
    with Xenstore() as store:
        assert domains.domains(store) == [Domain(3, "bare", "", 0)]


@pytest.mark.parametrize(
    "pid", ["", "0", "-1", "+812", " 812", "8_12", "٨١٢", "4194305", "9" * 4000, "0x32c", b"\xff", b"812\0"]
)
def test_invalid_pid_reads_as_zero(xen: FakeXen, pid: str | bytes) -> None:
    listed(xen, 3, pid=pid)
    with Xenstore() as store:
        assert domains.domains(store) == [Domain(3, "debian", UUID, 0)]


@pytest.mark.parametrize(
    "vm",
    [
        *("", UUID, f"/vm/{UUID}/", f"/vm/{UUID.upper()}", f"/vm/{UUID}\n", f"/vm/../../{UUID}"),
        *("/vm/" + "a" * 36, "/vm/" + "../" * 12, b"\xff" * 40),
    ],
)
def test_invalid_uuid_reads_as_empty(xen: FakeXen, vm: str | bytes) -> None:
    listed(xen, 3, vm=vm)
    with Xenstore() as store:
        assert domains.domains(store) == [Domain(3, "debian", "", 812)]


def test_name_contains_no_control_characters(xen: FakeXen) -> None:
    listed(xen, 3, name=b"\x1b[2Ja\r\n\x00b\xff\xe2\x80\xae")
    with Xenstore() as store:
        found = domains.domain(store, 3)
        assert found is not None
        assert found.name == "[2Jab\N{REPLACEMENT CHARACTER}"
        assert found.name.isprintable()
        listed(xen, 3, name=b"x" * 10000)
        found = domains.domain(store, 3)
        assert found is not None
        assert len(found.name) == 4096


def test_invalid_ids_are_ignored(xen: FakeXen) -> None:
    for domid in ("0", "-1", "32752", "99999999999", "three", "٣", "3x"):
        listed(xen, domid)
    listed(xen, MAX_DOMID)
    with Xenstore() as store:
        assert [each.domid for each in domains.domains(store)] == [MAX_DOMID]
        for wanted in ("0", "32752", "99999999999", "-1", "four"):
            assert domains.find(store, wanted) is None


def test_domain_is_found_by_id_and_name(xen: FakeXen) -> None:
    listed(xen, 0, "Domain-0")
    for domid, name in ((12, "b"), (9, "a"), (11, "a"), (2, "12"), (4, "0012x")):
        listed(xen, domid, name)
    with Xenstore() as store:
        assert [each.domid for each in domains.domains(store)] == [2, 4, 9, 11, 12]
        found = {wanted: domains.find(store, wanted) for wanted in ("9", "a", "b", "12", "0012x", "Domain-0")}
    ids = {wanted: each and each.domid for wanted, each in found.items()}
    assert ids == {"9": 9, "a": 11, "b": 12, "12": 12, "0012x": 4, "Domain-0": None}, "the newest of a name"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.binary(max_size=60), vm=st.binary(max_size=60), pid=st.binary(max_size=12))
def test_arbitrary_values_are_bounded(xen: FakeXen, name: bytes, vm: bytes, pid: bytes) -> None:
    listed(xen, 3, name, vm, pid)
    with Xenstore() as store:
        (found,) = domains.domains(store)
    assert found.name.isprintable()
    assert "/" not in found.uuid
    assert 0 <= found.model_pid <= 1 << 22
