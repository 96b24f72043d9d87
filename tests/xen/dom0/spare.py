"""A guest beside the one that is shared: it is paused, saved, rebooted, and its viewers are killed.

A plugin of pytest, so that several modules can share it: `pytest_plugins`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from xen.dom0.driver_staged import SPARE_DISPLAYS, StagedGuest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def spare(hap: bool) -> Iterator[StagedGuest]:
    name = f"spare-{'hap' if hap else 'shadow'}"
    with StagedGuest(name, hap=hap, vnc_display=SPARE_DISPLAYS[hap], on_reboot="restart") as guest:
        guest.shrink()
        yield guest
