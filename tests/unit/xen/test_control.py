"""Control: the state of domains and processors, from records with Xen's layout."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from support.fake_xen.host import CR0_WP, FakeXen
from vramtap.errors import KernelError, NotFound, Refused, TargetGone, VramtapError
from vramtap.xen import control
from vramtap.xen.control import Control, DomainInfo, ShutdownReason


def test_each_flag_is_decoded_separately(xen: FakeXen) -> None:
    xen.create(3)
    quiet = DomainInfo(3, hvm=True, hap=True, paused=False, dying=False, shutdown=None)
    with Control() as handle:
        assert handle.domain(3) == quiet
        xen.pause(3)
        assert handle.domain(3) == replace(quiet, paused=True)
        xen.pause(3, paused=False)
        for reason in (*ShutdownReason, 6, 255):
            xen.shut_down(3, reason)
            assert handle.domain(3) == replace(quiet, shutdown=reason)
        xen.shut_down(3, -1)
        assert handle.domain(3) == quiet
        xen.create(0x7FEF, hap=False)
        xen.create(5, hap=False, hvm=False)
        shadow, para = handle.domain(0x7FEF), handle.domain(5)
        assert shadow is not None
        assert para is not None
        assert (shadow.hvm, shadow.hap) == (True, False)
        assert (para.hvm, para.hap) == (False, False)


def test_missing_domain_is_not_mistaken_for_next_one(xen: FakeXen) -> None:
    xen.create(7)
    with Control() as handle:
        assert handle.domain(3) is None
        assert handle.domain(7) is not None
        xen.destroy(7)
        assert handle.domain(7) is None


def test_cpu_time_is_read_in_nanoseconds(xen: FakeXen) -> None:
    xen.create(3)
    with Control() as handle:
        assert handle.cpu_time_ns(3) == 0
        xen.ran(3, 1 << 60)
        xen.ran(3, 7)
        assert handle.cpu_time_ns(3) == (1 << 60) + 7
        with pytest.raises(TargetGone, match="domain 2: the domain has ended"):
            handle.cpu_time_ns(2)
        xen.fail("xc_domain_getinfolist", errno.EPERM)
        with pytest.raises(Refused):
            handle.cpu_time_ns(3)


OFFLINE = 0xDEAD
"""See support/fake_xen/control.c."""


@pytest.mark.parametrize(
    ("cr0", "heeded"),
    [
        ([CR0_WP], True),
        ([0], False),
        ([~CR0_WP & (1 << 64) - 1], False),
        ([CR0_WP, CR0_WP, CR0_WP, CR0_WP], True),
        ([CR0_WP, CR0_WP, CR0_WP, 0x11], False),
        ([0x11, CR0_WP], False),
        ([CR0_WP, OFFLINE, CR0_WP], True),
        ([CR0_WP, OFFLINE, 0x11], False),
        ([OFFLINE], True),
    ],
)
def test_one_processor_without_cr0_wp_disables_write_protection(
    xen: FakeXen, cr0: list[int], heeded: bool
) -> None:
    xen.create(3)
    xen.cpu(3, *cr0)
    with Control() as handle:
        assert handle.heeds_write_protection(3) is heeded


def test_processor_state_failure_names_vcpu(xen: FakeXen) -> None:
    xen.create(3)
    xen.cpu(3, CR0_WP, CR0_WP)
    with Control() as handle:
        xen.fail("xc_domain_hvm_getcontext_partial", errno.EINVAL, skip=1)
        with pytest.raises(KernelError, match="xc_domain_hvm_getcontext_partial domain 3 vCPU 1"):
            handle.heeds_write_protection(3)


def test_hypervisor_errors_are_raised(xen: FakeXen) -> None:
    xen.create(3)
    xen.cpu(3, CR0_WP, CR0_WP)
    with Control() as handle:
        xen.fail("xc_domain_getinfolist", errno.EPERM)
        with pytest.raises(Refused, match=r"xc_domain_getinfolist domain 3: .*root in Xen's dom0"):
            handle.domain(3)
        xen.fail("xc_domain_hvm_getcontext_partial", errno.ESRCH, skip=1)
        with pytest.raises(TargetGone, match="domain 3 vCPU 1: the domain has ended"):
            handle.heeds_write_protection(3)
        with pytest.raises(TargetGone):
            handle.heeds_write_protection(4)


def test_too_many_processors_are_refused(xen: FakeXen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "MAX_VCPUS", 2)
    xen.create(3)
    xen.cpu(3, CR0_WP, CR0_WP, CR0_WP)
    with Control() as handle, pytest.raises(VramtapError, match="domain 3: over 2 vCPUs: 3"):
        handle.heeds_write_protection(3)


def test_failed_open_raises(xen: FakeXen) -> None:
    xen.fail("xc_interface_open", errno.EACCES)
    with pytest.raises(Refused, match="xc_interface_open"):
        Control()
    xen.absent.add("libxenctrl")
    with pytest.raises(NotFound, match="apt install libxenmisc"):
        Control()


def test_closed_handle_refuses_calls(xen: FakeXen) -> None:
    handle = Control()
    handle.close()
    handle.close()
    assert xen.handles["control"] == 0
    with pytest.raises(VramtapError, match="use Control: it has been closed"):
        handle.domain(3)
