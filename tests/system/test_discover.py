"""`discover` on a machine with real guests and X servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support.testbed.xvfb import Framebuffer, Xvfb
from vramtap.targets.discover import discover
from vramtap.targets.discovered import Discovered
from vramtap.targets.url import parse

if TYPE_CHECKING:
    from support.testbed.guest import Guest


def test_x_servers_are_listed_while_they_run() -> None:
    with Xvfb(Framebuffer.PLAIN, 64, 64) as one, Xvfb(Framebuffer.SHMEM, 64, 64) as other:
        found = discover()
        for server in (one, other):
            assert Discovered(url=server.url, kind="x11", description="Xvfb", pid=server.pid) in found
        gone = other.url
    assert gone not in {target.url for target in discover()}


def test_a_guest_is_listed_with_its_qmp_socket(guest: Guest) -> None:
    found = [target for target in discover() if target.pid == guest.pid]
    assert len(found) == 1
    assert found[0].tappable
    assert found[0].description.startswith("QEMU ")
    assert parse(found[0].url).rest == str(guest.qmp_path)


def test_discover_does_not_disturb_a_guest(guest: Guest) -> None:
    discover()
    assert guest.run("echo still here").strip() == "still here"
