"""What the tests in dom0 share: a guest for each paging mode the hypervisor has, and its screen served."""

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
    """Whether hardware-assisted: the kinds that this host is there for; another may run beside it."""
    return [mode == "1" for mode in os.environ[HAP].split()]


def pytest_sessionstart() -> None:
    """Say once, and not for each guest, that the hypervisor lacks what was asked for."""
    capabilities = next(line for line in xl("info").splitlines() if line.startswith("virt_caps"))
    if False in pagings() and "shadow" not in capabilities.split():
        raise pytest.UsageError(f"{HAP}={os.environ[HAP]}: this hypervisor has no shadow paging")


def paging_name(hap: bool) -> str:
    return "hap" if hap else "shadow"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "hap" in metafunc.fixturenames:
        metafunc.parametrize("hap", pagings(), ids=paging_name, scope="session")


@pytest.fixture(scope="session")
def machine(hap: bool) -> Iterator[BootSectorGuest]:
    """The guest that most tests share; the device model's own VNC server listens, and nobody looks."""
    display = 0 if hap else 1
    with BootSectorGuest(f"boot-{paging_name(hap)}", hap=hap, vnc_display=display) as machine:
        machine.tick(TICK_HZ)
        yield machine


@pytest.fixture(scope="session")
def served(machine: BootSectorGuest) -> Iterator[Served]:
    """Its screen, served by the program."""
    with Served(f"xen:{machine.name}") as served:
        yield served
