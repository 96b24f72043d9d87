"""What `vramtap ls` finds on a machine with real guests and X servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support.testbed.xvfb import Framebuffer, Xvfb
from vramtap.targets.discover import discover
from vramtap.targets.discovered import Discovered
from vramtap.targets.url import parse

if TYPE_CHECKING:
    from support.testbed.guest import Guest


def test_x_servers_are_found() -> None:
    with Xvfb(Framebuffer.PLAIN, 64, 64) as one, Xvfb(Framebuffer.SHMEM, 64, 64) as other:
        found = discover()
        for server in (one, other):
            assert Discovered(server.url, "Xvfb", server.pid, True) in found
        gone = other.url
    assert gone not in {target.url for target in discover()}


def test_a_guest_is_found_by_its_monitor(guest: Guest) -> None:
    found = [target for target in discover() if target.pid == guest.pid]
    assert len(found) == 1
    assert found[0].tappable
    assert found[0].what.startswith("QEMU ")
    assert parse(found[0].url).rest == str(guest.qmp_path)


def test_nothing_found_is_disturbed(guest: Guest) -> None:
    discover()
    assert guest.run("echo still here").strip() == "still here"
