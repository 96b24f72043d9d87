"""The domain is destroyed while vramtap taps it.

The file's name makes it run last, so that it can destroy the guest that the other tests share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from xen.dom0.driver_domain import wait_for, xl
from xen.dom0.served import START_S, Served, picture_of

if TYPE_CHECKING:
    from xen.dom0.driver import BootSectorGuest


@pytest.mark.short
def test_destroyed_domain_ends_the_program(machine: BootSectorGuest, served: Served) -> None:
    with served.viewer() as viewer:
        viewer.shows(picture_of(machine))
        domid = machine.domid
        machine.detach()
        xl("destroy", str(domid))
        assert served.process.wait(START_S) == 0
    assert served.next("ended")["ended"] == f"domain {machine.name} (id {domid}) was destroyed"
    assert served.errors == ""
    # Xen keeps the domain's memory as long as any of it is mapped.
    wait_for("the domain's end", lambda: "(null)" not in xl("list") or None, START_S, 0.5)
