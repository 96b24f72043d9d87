"""The trials of `vramtap doctor`: each gives a finding, independent of the others."""

from __future__ import annotations

import errno
import json
import os
from typing import TYPE_CHECKING

from click.testing import CliRunner

from support.testbed.nobody import as_nobody
from vramtap.cli import _doctor_trials as doctor
from vramtap.cli.main import cli
from vramtap.errors import KernelError

if TYPE_CHECKING:
    import pytest


def test_each_trial_gives_a_finding_and_each_failure_a_reason_and_a_remedy() -> None:
    findings = doctor.examine()
    assert len({finding.what for finding in findings}) == len(findings) >= 9
    for finding in findings:
        assert finding.detail
        assert finding.ok or finding.remedy
    ok = {finding.what for finding in findings if finding.ok}
    assert "wake-up by the first write" in ok or os.geteuid() != 0
    assert {"write log of this process", "write log of another process", "reading another process"} <= ok
    assert "tapping processes of other users" in ok or os.geteuid() != 0


def test_trial_that_cannot_start_does_not_keep_the_others_from_running(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(pid: int) -> None:
        raise KernelError("pidfd_open", f"pid {pid}", errno.EPERM, "allow it in the container's profile")

    before = doctor.examine()
    monkeypatch.setattr(doctor, "ProcessSpace", refuse)
    done = CliRunner().invoke(cli, ["doctor", "--json"])
    assert done.exit_code == 1, "no process can be read"
    said = json.loads(done.output)
    assert len(said) == len(before)
    broken = [finding for finding in said if "pidfd_open" in finding["detail"]]
    assert [(finding["what"], finding["essential"]) for finding in broken] == [
        ("write log of another process", False),
        ("wake-up by the first write", False),
        ("reading another process", True),
    ]
    assert all(finding["remedy"] == "allow it in the container's profile" for finding in broken)


KVM = "KVM for the built-in VM"


def kvm_finding() -> doctor.Finding:
    (trial,) = (trial for trial in doctor._TRIALS if trial.what == KVM)
    return doctor.run_trial(trial)


def test_kvm_trial_runs_a_guest() -> None:
    found = kvm_finding()
    assert found.ok
    assert not found.essential
    assert found.detail == "a guest ran, and its store was logged (bitmap, manual, ring)"


def test_kvm_trial_without_permission_names_the_group() -> None:
    with as_nobody():
        found = kvm_finding()
    assert not found.ok
    assert "open /dev/kvm: EACCES" in found.detail
    assert found.remedy.startswith("add the user to group kvm")


def test_kvm_trial_reports_a_form_of_log_that_does_not_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "probe_kvm", lambda: {"bitmap": None, "ring": "EINVAL"})
    assert kvm_finding() == doctor.Finding(
        what=KVM, ok=True, detail="a guest ran, and its store was logged (bitmap); ring: EINVAL"
    )
    monkeypatch.setattr(doctor, "probe_kvm", lambda: {"bitmap": "nothing was named"})
    assert kvm_finding() == doctor.Finding(
        what=KVM,
        ok=False,
        detail="bitmap: nothing was named",
        remedy="use cpu=unicorn, which needs no KVM",
    )


def test_remedy_is_not_repeated_in_the_detail() -> None:
    def refuse() -> str:
        raise KernelError("ptrace", "pid 7", errno.EPERM, "run as root")

    found = doctor.run_trial(doctor.Trial("attaching", refuse, "another remedy"))
    assert (found.detail, found.remedy) == ("ptrace pid 7: EPERM", "run as root")


def test_trial_without_a_remedy_of_its_own_gets_the_default_one() -> None:
    def fail() -> str:
        raise doctor.TrialFailed("it did not work")

    found = doctor.run_trial(doctor.Trial("attaching", fail, "run as root", essential=True))
    assert found == doctor.Finding(
        what="attaching", ok=False, detail="it did not work", remedy="run as root", essential=True
    )
