"""The output and the exit status of `vramtap doctor`."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from vramtap.cli import doctor
from vramtap.cli._doctor_trials import Finding

GOOD = Finding(what="reading", ok=True, detail="a byte was read", essential=True)
BAD = Finding(what="write log", ok=False, detail="userfaultfd: EPERM", remedy="run as root")
WORST = Finding(what="reading", ok=False, detail="EPERM", remedy="run as root", essential=True)


@pytest.mark.parametrize(
    ("findings", "status"), [([], 0), ([GOOD], 0), ([GOOD, BAD], 0), ([WORST], 1), ([BAD, WORST, GOOD], 1)]
)
def test_status_is_1_only_if_an_essential_trial_fails(
    findings: list[Finding], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: findings)
    assert CliRunner().invoke(doctor.command).exit_code == status
    assert CliRunner().invoke(doctor.command, ["--json"]).exit_code == status


def test_each_line_has_the_reason_and_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: [GOOD, BAD])
    assert CliRunner().invoke(doctor.command).stdout.splitlines() == [
        "ok  reading: a byte was read",
        "no  write log: userfaultfd: EPERM -> run as root",
    ]


def test_json_has_every_field(monkeypatch: pytest.MonkeyPatch) -> None:
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
