"""What `vramtap ls` and `vramtap doctor` say in a dom0."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xen.dom0.driver import BootSectorGuest


def said(command: str) -> list[dict[str, Any]]:
    done = subprocess.run(["vramtap", command, "--json"], capture_output=True, text=True, check=False)
    assert not done.stderr
    answer: list[dict[str, Any]] = json.loads(done.stdout)
    return answer


def test_the_domain_is_listed_once_and_can_be_tapped(machine: BootSectorGuest) -> None:
    found = said("ls")
    (domain,) = [each for each in found if machine.name in each["description"]]
    assert domain["url"] == f"xen:{machine.name}"
    assert domain["tappable"], domain["reason"]
    assert domain["pid"]
    assert not [each for each in found if each["url"].startswith("qemu:")], "its QEMU is no guest of its own"


def test_the_doctor_reaches_the_hypervisor(machine: BootSectorGuest) -> None:
    (finding,) = [each for each in said("doctor") if each["what"] == "Xen domains"]
    assert finding["ok"], finding
    assert "can be reached" in finding["detail"]
