"""A second guest, for tests that pause, save or reboot it or kill its vramtap.

This is a pytest plugin, so that several modules can share the guest through `pytest_plugins`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from xen.dom0.driver_staged import SPARE_DISPLAYS, StagedGuest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def spare(hap: bool) -> Iterator[StagedGuest]:
    """A small guest, which `xl` restarts on a reset."""
    name = f"spare-{'hap' if hap else 'shadow'}"
    with StagedGuest(name, hap=hap, vnc_display=SPARE_DISPLAYS[hap], on_reboot="restart") as guest:
        guest.shrink()
        yield guest
