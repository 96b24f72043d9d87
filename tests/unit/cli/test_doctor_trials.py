"""What `vramtap doctor` says: a line for each trial, whatever becomes of the others."""

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


def test_each_trial_is_a_line_and_each_no_has_a_reason_and_a_remedy() -> None:
    findings = doctor.examine()
    assert len({finding.what for finding in findings}) == len(findings) >= 9
    for finding in findings:
        assert finding.detail
        assert finding.ok or finding.remedy
    ok = {finding.what for finding in findings if finding.ok}
    assert "being woken by the first write" in ok or os.geteuid() != 0
    assert {"write log of this process", "write log of another process", "reading another process"} <= ok
    assert "tapping processes of other users" in ok or os.geteuid() != 0


def test_one_that_cannot_be_begun_does_not_keep_the_others_from_being_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(pid: int) -> None:
        raise KernelError("pidfd_open", f"pid {pid}", errno.EPERM, "allow it in the container's profile")

    before = doctor.examine()
    monkeypatch.setattr(doctor, "ProcessSpace", refuse)
    done = CliRunner().invoke(cli, ["doctor", "--json"])
    assert done.exit_code == 1, "nothing can be read"
    said = json.loads(done.output)
    assert len(said) == len(before)
    broken = [finding for finding in said if "pidfd_open" in finding["detail"]]
    assert [finding["essential"] for finding in broken] == [False, False, True]
    assert all(finding["remedy"] == "allow it in the container's profile" for finding in broken)


KVM = "KVM for the embedded machine"


def kvm_finding() -> doctor.Finding:
    (found,) = (finding for finding in doctor.examine() if finding.what == KVM)
    return found


def test_kvm_is_found_to_work_by_running_a_guest() -> None:
    found = kvm_finding()
    assert found.ok
    assert not found.essential
    assert found.detail == "a guest ran, and its store was logged (bitmap, manual, ring)"


def test_kvm_without_permission_is_a_no_that_names_the_group() -> None:
    with as_nobody():
        found = doctor._kvm()
    assert not found.ok
    assert "open /dev/kvm: EACCES" in found.detail
    assert found.remedy.startswith("add the user to group kvm")


def test_kvm_of_which_one_form_of_log_does_not_work_is_a_yes_that_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "probe_kvm", lambda: {"bitmap": None, "ring": "EINVAL"})
    assert kvm_finding() == doctor.Finding(
        KVM, True, "a guest ran, and its store was logged (bitmap); ring: EINVAL"
    )
    monkeypatch.setattr(doctor, "probe_kvm", lambda: {"bitmap": "nothing was named"})
    assert kvm_finding() == doctor.Finding(KVM, False, "bitmap: nothing was named", "use cpu=unicorn")
