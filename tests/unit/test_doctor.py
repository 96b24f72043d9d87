"""What `vramtap doctor` says: a line for each trial, whatever becomes of the others."""

from __future__ import annotations

import errno
import json
import os

import pytest
from click.testing import CliRunner

from vramtap import doctor
from vramtap.cli.main import cli
from vramtap.errors import KernelError


def test_each_trial_is_a_line_and_each_no_has_a_reason_and_a_remedy() -> None:
    findings = doctor.examine()
    assert len({finding.what for finding in findings}) == len(findings) >= 9
    for finding in findings:
        assert finding.detail
        assert finding.ok or finding.remedy
    ok = {finding.what for finding in findings if finding.ok}
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
    assert [finding["essential"] for finding in broken] == [False, True]
    assert all(finding["remedy"] == "allow it in the container's profile" for finding in broken)
