"""Tests of requirements: a missing one skips the test; in CI it fails the test."""

from __future__ import annotations

import pytest

from support.testbed.require import program, require


def test_present_requirement_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    require(True, "nothing")
    assert program("sh", "dash").endswith("/sh")


def test_missing_program_skips_outside_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no-such-tool is not installed"):
        program("no-such-tool", "nothing")


def test_missing_requirement_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="missing in CI: a kernel"):
        require(False, "a kernel")
