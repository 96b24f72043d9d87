"""The program with a viewer that waits and a target that stands still: nothing in it wakes by itself."""

from __future__ import annotations

import os

import pytest

from support.asleep import await_rest, switches
from support.program import serve
from support.rfb_client import RAW, RfbClient
from support.testbed.require import require
from support.testbed.xclient import XClient
from support.testbed.xvfb import Framebuffer, Xvfb
from vramtap.errors import VramtapError
from vramtap.linux import abi
from vramtap.linux.calls import syscall

STANDING = "demo:?workload=idle&mode=320x200&cpu=unicorn"


def waits(client: RfbClient) -> None:
    """It has the picture and waits for the next."""
    client.refresh(incremental=False)
    client.request()


@pytest.mark.parametrize("web", [False, True])
def test_the_embedded_machine_and_who_watches_it_sleep_until_a_key(web: bool) -> None:
    with serve(STANDING, web=web) as server:
        with server.connect((RAW,)) as client:
            waits(client)
            for key in "ab":
                await_rest(server.pid)
                before = switches(server.pid)
                await_rest(server.pid)
                assert switches(server.pid) == before, "to be looked at wakes nobody"
                client.key(ord(key), down=True)
                client.wait_update()
                client.request()
        (report,) = server.stop()
    assert report["stats"]["failures"] == 0


def test_an_x_server_and_who_watches_it_sleep_until_something_is_drawn() -> None:
    try:
        os.close(syscall("userfaultfd", "self", abi.SYS_USERFAULTFD, os.O_CLOEXEC))
        refused = ""
    except VramtapError as error:
        refused = str(error)
    require(not refused, f"synchronous write protection: {refused} (CAP_SYS_PTRACE)")
    with (
        Xvfb(Framebuffer.PLAIN, 320, 200) as xvfb,
        XClient(xvfb.display) as drawing,
        serve(xvfb.url) as server,
    ):
        with server.connect((RAW,)) as client:
            waits(client)
            for color in (0x123456, 0x654321):
                await_rest(server.pid)
                drawing.fill(10, 10, 5, 5, color)
                drawing.sync()
                client.wait_update()
                client.request()
        (report,) = server.stop()
    assert report["stats"]["failures"] == 0
