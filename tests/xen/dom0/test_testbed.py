"""The testbed is what it is taken for: a dom0, with the program installed from its wheel."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import vramtap


@pytest.mark.short
def test_this_is_dom0_with_the_wheel_installed() -> None:
    assert "control_d" in Path("/proc/xen/capabilities").read_text()
    assert "dist-packages" in Path(vramtap.__file__).parts


def test_xen_offers_hardware_virtual_machines() -> None:
    said = subprocess.run(["xl", "info"], capture_output=True, text=True, check=True).stdout
    assert "hvm-3.0-x86_64" in said


def test_the_program_starts() -> None:
    said = subprocess.run(["vramtap", "--version"], capture_output=True, text=True, check=True).stdout
    assert version("vramtap") in said


def test_there_is_no_compiler() -> None:
    for name in ("gcc", "cc", "clang"):
        with pytest.raises(FileNotFoundError):
            subprocess.run([name, "--version"], check=False)


def test_faults_in_c_are_told_with_a_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import ctypes; ctypes.string_at(0)"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode < 0
    assert "Segmentation fault" in done.stderr
