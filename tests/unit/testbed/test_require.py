"""What is missing is a skip at a desk and a failure in CI."""

from __future__ import annotations

import pytest

from support.testbed.require import program, require


def test_what_is_there_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    require(True, "nothing")
    assert program("sh", "dash").endswith("/sh")


def test_missing_is_a_skip_at_a_desk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no-such-tool is not installed"):
        program("no-such-tool", "nothing")


def test_missing_is_a_failure_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="missing in CI: a kernel"):
        require(False, "a kernel")
