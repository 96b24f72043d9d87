"""The trial of KVM: what works, what is wrong with one form only, and what ends it."""

from __future__ import annotations

import errno

import pytest

from vramtap.errors import KernelError, Refused, VramtapError
from vramtap.linux import kvm_exits as exits
from vramtap.linux.kvm import Kvm, Vcpu, Vm
from vramtap.machine.kvm_log import Fetched, VramLog
from vramtap.machine.kvm_probe import probe_kvm
from vramtap.pages import NO_PAGES, PageRuns


def test_here_a_guest_runs_and_every_form_of_log_works() -> None:
    assert probe_kvm() == {"bitmap": None, "manual": None, "ring": None}


def test_a_form_that_is_not_there_does_not_spoil_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Vm, entries: int) -> None:
        raise KernelError("KVM_ENABLE_CAP", "vm", errno.EINVAL)

    monkeypatch.setattr(Vm, "enable_dirty_rings", refuse)
    found = probe_kvm()
    assert (found["bitmap"], found["manual"]) == (None, None)
    assert found["ring"] == "KVM_ENABLE_CAP vm: EINVAL"


@pytest.mark.parametrize("pages", [NO_PAGES, PageRuns([(77, 79)])], ids=["nothing", "too much"])
def test_a_log_that_does_not_name_the_page_is_not_believed(
    monkeypatch: pytest.MonkeyPatch, pages: PageRuns
) -> None:
    monkeypatch.setattr(VramLog, "fetch", lambda self: Fetched(pages))
    assert all(wrong is not None and "the guest wrote page 77" in wrong for wrong in probe_kvm().values())


def test_a_guest_that_does_not_run_is_said_with_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Vcpu, "run", lambda self: exits.Shutdown())
    with pytest.raises(VramtapError, match="trial guest: triple fault at 0x100000"):
        probe_kvm()


def test_a_device_that_is_refused_comes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Kvm:
        raise Refused("open", "/dev/kvm", "EACCES", "add the user to group kvm")

    monkeypatch.setattr(Kvm, "open", refuse)
    with pytest.raises(Refused, match="group kvm"):
        probe_kvm()
