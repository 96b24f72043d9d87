"""The lines of doctor, and when it fails."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from vramtap.cli import doctor
from vramtap.cli._doctor_trials import Finding

GOOD = Finding("reading", True, "a byte was read", essential=True)
BAD = Finding("write log", False, "userfaultfd: EPERM", "run as root")
WORST = Finding("reading", False, "EPERM", "needs ptrace rights", essential=True)


@pytest.mark.parametrize(
    ("findings", "status"), [([], 0), ([GOOD], 0), ([GOOD, BAD], 0), ([WORST], 1), ([BAD, WORST, GOOD], 1)]
)
def test_only_what_is_essential_makes_it_fail(
    findings: list[Finding], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: findings)
    assert CliRunner().invoke(doctor.command).exit_code == status
    assert CliRunner().invoke(doctor.command, ["--json"]).exit_code == status


def test_a_line_each_with_the_reason_and_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: [GOOD, BAD])
    assert CliRunner().invoke(doctor.command).stdout.splitlines() == [
        "ok  reading: a byte was read",
        "no  write log: userfaultfd: EPERM -> run as root",
    ]


def test_json_has_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: [BAD])
    assert json.loads(CliRunner().invoke(doctor.command, ["--json"]).stdout) == [
        {
            "what": "write log",
            "ok": False,
            "detail": "userfaultfd: EPERM",
            "remedy": "run as root",
            "essential": False,
        }
    ]
