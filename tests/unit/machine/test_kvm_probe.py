"""Trial of KVM: working forms, one broken form, and errors that end the trial."""

from __future__ import annotations

import errno

import pytest

from vramtap.errors import KernelError, Refused, VramtapError
from vramtap.linux import kvm_exits as exits
from vramtap.linux.kvm import Kvm, Vcpu, Vm
from vramtap.machine.kvm_log import Fetched, VramLog
from vramtap.machine.kvm_probe import probe_kvm
from vramtap.pages import NO_PAGES, PageRuns


def test_every_form_of_log_works_here() -> None:
    assert probe_kvm() == {"bitmap": None, "manual": None, "ring": None}


def test_missing_form_does_not_affect_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Vm, entries: int) -> None:
        raise KernelError("KVM_ENABLE_CAP", "vm", errno.EINVAL)

    monkeypatch.setattr(Vm, "enable_dirty_rings", refuse)
    found = probe_kvm()
    assert (found["bitmap"], found["manual"]) == (None, None)
    assert found["ring"] == "KVM_ENABLE_CAP vm: EINVAL"


@pytest.mark.parametrize("pages", [NO_PAGES, PageRuns([(77, 79)])], ids=["nothing", "too much"])
def test_wrong_log_content_is_reported(monkeypatch: pytest.MonkeyPatch, pages: PageRuns) -> None:
    monkeypatch.setattr(VramLog, "fetch", lambda self: Fetched(pages))
    assert all(wrong is not None and "the guest wrote page 77" in wrong for wrong in probe_kvm().values())


def test_guest_that_does_not_run_raises_with_its_rip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Vcpu, "run", lambda self: exits.Shutdown())
    with pytest.raises(VramtapError, match="trial guest: triple fault at 0x100000"):
        probe_kvm()


def test_refused_device_propagates(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Kvm:
        raise Refused("open", "/dev/kvm", "EACCES", "add the user to group kvm")

    monkeypatch.setattr(Kvm, "open", refuse)
    with pytest.raises(Refused, match="group kvm"):
        probe_kvm()
