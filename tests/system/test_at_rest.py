"""The program sleeps while its target is idle and a viewer waits: no thread or timer wakes by itself."""

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

IDLE = "demo:?workload=idle&mode=320x200&cpu=unicorn"


def wait_for_change(client: RfbClient) -> None:
    """Take the whole picture, and request the next change."""
    client.refresh(incremental=False)
    client.request()


@pytest.mark.parametrize("web", [False, True])
def test_the_program_sleeps_until_a_key_wakes_the_built_in_vm(web: bool) -> None:
    with serve(IDLE, web=web) as server:
        with server.connect((RAW,)) as client:
            wait_for_change(client)
            for key in "ab":
                await_rest(server.pid)
                before = switches(server.pid)
                await_rest(server.pid)
                assert switches(server.pid) == before, "the test's own checks must not wake it"
                client.key(ord(key), down=True)
                client.wait_update()
                client.request()
        (report,) = server.stop()
    assert report["stats"]["failures"] == 0


def test_the_program_sleeps_until_an_x_client_draws() -> None:
    try:
        os.close(syscall("userfaultfd", "self", abi.SYS_USERFAULTFD, os.O_CLOEXEC))
        reason = ""
    except VramtapError as error:
        reason = str(error)
    require(not reason, f"synchronous write protection: {reason} (CAP_SYS_PTRACE)")
    with (
        Xvfb(Framebuffer.PLAIN, 320, 200) as xvfb,
        XClient(xvfb.display) as drawing,
        serve(xvfb.url) as server,
    ):
        with server.connect((RAW,)) as client:
            wait_for_change(client)
            for color in (0x123456, 0x654321):
                await_rest(server.pid)
                drawing.fill(10, 10, 5, 5, color)
                drawing.sync()
                client.wait_update()
                client.request()
        (report,) = server.stop()
    assert report["stats"]["failures"] == 0
