"""Runs the short tests in a real dom0. `make test-xen` runs the long ones too."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from support.testbed.errors import TestbedError
from support.testbed.require import program, require
from xen.testbed import layers, suite
from xen.testbed.host import Host

if TYPE_CHECKING:
    from pathlib import Path

TIMEOUT_S = 600.0
"""Ten times the usual duration, because other programs use the machine too."""
MODULES = ("contract", "testbed", "screen", "two_viewers", "zz_destroyed")
"""Test modules of dom0 with short tests. Loading one costs an emulated processor half a second."""


@pytest.fixture(scope="module")
def parts() -> list[suite.Part]:
    program("qemu-system-x86_64", "qemu-system-x86")
    program("apt-get", "apt")
    try:
        found, left_out = suite.parts("both")
        layers.prepare()
    except TestbedError as error:
        require(False, str(error))
        raise
    if left_out:
        print(left_out, file=sys.stderr)
    return found


def test_short_form_passes(parts: list[suite.Part], tmp_path: Path) -> None:
    outcomes = suite.run(
        parts,
        suite.tests([*(f"tests/xen/dom0/test_{name}.py" for name in MODULES), "-m", "short"]),
        out=tmp_path,
        timeout_s=TIMEOUT_S,
        on_line=lambda name, line: print(f"{name}: {line}"),
    )
    failed = [
        f"--- {name}: exit status {outcome.status}\n{outcome.report()}"
        for name, outcome in outcomes.items()
        if outcome.failed
    ]
    assert not failed, "\n".join(failed)
    assert all((tmp_path / part.name / suite.JUNIT).exists() for part in parts)


def test_host_is_stopped_at_its_time_limit(parts: list[suite.Part], tmp_path: Path) -> None:
    with Host(parts[0].program, "true", out=tmp_path) as host:
        assert host.running
        with pytest.raises(TestbedError, match=r"^Xen host: not done after 0 s"):
            host.follow(0, print)
    assert not host.running


def test_host_that_does_not_boot_reports_qemus_status(parts: list[suite.Part], tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    nothing.write_bytes(bytes(4096))
    with (
        Host(nothing, "true", out=tmp_path) as host,
        pytest.raises(TestbedError, match="QEMU's exit status 1: "),
    ):
        host.follow(60, print)
