"""The testbed is a real dom0 with vramtap installed from its wheel."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import vramtap


@pytest.mark.short
def test_dom0_has_the_wheel_installed() -> None:
    assert "control_d" in Path("/proc/xen/capabilities").read_text()
    assert "dist-packages" in Path(vramtap.__file__).parts


def test_xen_supports_hvm_guests() -> None:
    output = subprocess.run(["xl", "info"], capture_output=True, text=True, check=True).stdout
    assert "hvm-3.0-x86_64" in output


def test_vramtap_starts() -> None:
    output = subprocess.run(["vramtap", "--version"], capture_output=True, text=True, check=True).stdout
    assert version("vramtap") in output


def test_dom0_has_no_compiler() -> None:
    for name in ("gcc", "cc", "clang"):
        with pytest.raises(FileNotFoundError):
            subprocess.run([name, "--version"], check=False)


def test_segmentation_fault_prints_a_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import ctypes; ctypes.string_at(0)"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode < 0
    assert "Segmentation fault" in done.stderr
