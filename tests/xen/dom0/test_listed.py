"""The output of `vramtap ls` and `vramtap doctor` in a dom0."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xen.dom0.driver import BootSectorGuest


def output_of(command: str) -> list[dict[str, Any]]:
    """Run `vramtap COMMAND --json` and return its parsed output."""
    done = subprocess.run(["vramtap", command, "--json"], capture_output=True, text=True, check=False)
    assert not done.stderr
    answer: list[dict[str, Any]] = json.loads(done.stdout)
    return answer


def test_domain_is_listed_once_as_tappable(machine: BootSectorGuest) -> None:
    found = output_of("ls")
    (domain,) = [each for each in found if machine.name in each["description"]]
    assert domain["url"] == f"xen:{machine.name}"
    assert domain["tappable"], domain["reason"]
    assert domain["pid"]
    assert not [each for each in found if each["url"].startswith("qemu:")], (
        "the domain's QEMU is listed as a guest of its own"
    )


def test_doctor_reaches_the_hypervisor(machine: BootSectorGuest) -> None:
    (finding,) = [each for each in output_of("doctor") if each["what"] == "Xen domains"]
    assert finding["ok"], finding
    assert "can be reached" in finding["detail"]
