"""Fixtures of the tests in dom0: one guest for each paging mode, and a vramtap that serves its screen."""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING

import pytest

from xen.dom0.driver import BootSectorGuest
from xen.dom0.driver_domain import xl
from xen.dom0.served import Served
from xen.testbed import HAP

if TYPE_CHECKING:
    from collections.abc import Iterator

TICK_HZ = 1000.0


@cache
def pagings() -> list[bool]:
    """Return the paging modes to test: True is hardware-assisted, False is shadow paging."""
    return [mode == "1" for mode in os.environ[HAP].split()]


def pytest_sessionstart() -> None:
    """Fail once for the session, not for each guest, if the hypervisor lacks a paging mode to test."""
    capabilities = next(line for line in xl("info").splitlines() if line.startswith("virt_caps"))
    if False in pagings() and "shadow" not in capabilities.split():
        raise pytest.UsageError(
            f"{HAP}={os.environ[HAP]}: this hypervisor has no shadow paging (leave out 0)"
        )


def paging_name(hap: bool) -> str:
    """Return the name of a paging mode for test ids and domain names."""
    return "hap" if hap else "shadow"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "hap" in metafunc.fixturenames:
        metafunc.parametrize("hap", pagings(), ids=paging_name, scope="session")


@pytest.fixture(scope="session")
def machine(hap: bool) -> Iterator[BootSectorGuest]:
    """The guest that most tests share. The device model's own VNC server listens without a client."""
    display = 0 if hap else 1
    with BootSectorGuest(f"boot-{paging_name(hap)}", hap=hap, vnc_display=display) as machine:
        machine.tick(TICK_HZ)
        yield machine


@pytest.fixture(scope="session")
def served(machine: BootSectorGuest) -> Iterator[Served]:
    """A `vramtap serve` of the shared guest."""
    with Served(f"xen:{machine.name}") as served:
        yield served
