"""A tap through the lifecycle of its domain: not started, paused, rebooted, saved, restored, ended."""

from __future__ import annotations

import contextlib
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest

from support.rfb_client import RfbClient
from support.rfb_decoder import NATIVE
from vramtap.errors import VramtapError
from vramtap.memory.extent import Extent
from vramtap.memory.foreign import XenSpace
from vramtap.trackers.xen.tracker import XenTracker
from vramtap.xen.foreignmemory import ForeignMemory
from xen.dom0.driver_domain import ids, wait_for, xl
from xen.dom0.driver_staged import StagedGuest
from xen.dom0.forked import Forked, serving
from xen.dom0.served import DESKTOP_SIZE, RAW, Viewer, picture_of, viewer_at

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from xen.dom0.driver import BootSectorGuest

pytest_plugins = ("xen.dom0.spare",)

LARGE_MIB = 128
"""Size of the video RAM. One call can report as much, but that range is QEMU's.

With 256 MiB, Xen maps no video RAM at all (measured).
"""
WAIT_S = 60.0
A_DOWN, A_UP = 0x1E, 0x9E
"""Scan codes of set 1."""


def connected(port: int) -> RfbClient:
    return RfbClient.connect(
        "127.0.0.1", port, encodings=(RAW, DESKTOP_SIZE), pixel_format=NATIVE, timeout_s=WAIT_S
    )


def draw(guest: BootSectorGuest, *viewers: Viewer) -> None:
    """Write at random places of the frame and wait until each viewer shows it."""
    chance = random.Random(guest.domid)
    words = guest.frame_pages * 1024
    with guest.batch():
        for _ in range(3):
            guest.fill(chance.randrange(words - 5000) * 4, 5000, chance.getrandbits(24))
        guest.scatter(0, 50, words, chance.getrandbits(31) | 1)
    for viewer in viewers:
        viewer.shows(picture_of(guest))
    # A single store after a pause.
    guest.fill(chance.randrange(words) * 4, 1, chance.getrandbits(24))
    for viewer in viewers:
        viewer.shows(picture_of(guest))
    guest.check()


def type_a(guest: BootSectorGuest, viewer: Viewer) -> None:
    """Type an `a` in a viewer and check that it arrives in the guest."""
    before = guest.page.keys
    for down in (True, False):
        viewer.client.key(ord("a"), down=down)
    wait_for("an a", lambda: True if guest.page.keys >= before + 2 else None, WAIT_S)
    assert guest.keys()[-2:] == bytes([A_DOWN, A_UP])
    assert guest.page.keys == before + 2


def free_mib() -> int:
    """Return the hypervisor's free memory, MiB."""
    info = dict(line.split(":", 1) for line in xl("info").splitlines() if ":" in line)
    return int({name.strip(): value for name, value in info.items()}["free_memory"])


def is_freed(free_before: int) -> bool | None:
    """Return True when no mapping keeps a destroyed domain, and its memory is free again; else None."""
    return True if "(null)" not in xl("list") and free_mib() >= free_before - 1 else None


def test_tap_lasts_from_before_the_first_run_until_destroy(hap: bool) -> None:
    """Tap a domain with more video RAM than one call can report in a range other than QEMU's."""
    free_before = free_mib()
    guest = StagedGuest(f"large-{hap:d}", hap=hap, videoram_mib=LARGE_MIB, paused=True)
    with (
        guest,
        serving(f"xen:{guest.name}", tracker="xen") as served,
        connected(served.port()) as client,
        contextlib.ExitStack() as stack,
    ):
        assert client.refresh(incremental=False).rects
        guest.start()
        guest.shrink()
        viewer = stack.enter_context(contextlib.closing(Viewer(client)))
        draw(guest, viewer)
        check_whole_vram_is_refused(guest)
        assert served.errors == ""
        domid = guest.domid
        guest.detach()
        xl("destroy", str(domid))
        ended = served.ended()
        assert (ended.status, ended.errors) == (0, "")
        assert served.report()["ended"] == f"domain {guest.name} (id {domid}) was destroyed"
        wait_for("the domain's end", lambda: is_freed(free_before), WAIT_S, 0.5)


def check_whole_vram_is_refused(guest: BootSectorGuest) -> None:
    """Check that the tracker refuses to track all of the video RAM."""
    pages = LARGE_MIB << 8
    space = XenSpace(ForeignMemory(), pages, guest.name, f"whole of {guest.domid}")
    tracker = XenTracker()
    try:
        assert space.place(guest.domid, guest.lfb_gfn)
        tracker.start(Extent(space, 0, pages))
        with pytest.raises(
            VramtapError, match=r"32769 pages in one call: Xen reports at most 32768 \(128 MiB\) \(pass a"
        ):
            tracker.collect()
    finally:
        tracker.stop()
        space.close()


def test_reboot_is_followed(spare: StagedGuest) -> None:
    """Two taps follow a reboot: the first uses the hypervisor's log, the second compares.

    A domain has only one log. The viewers stay connected but request no updates during the reboot: with two
    taps that scan, an emulated processor takes minutes to boot.
    """
    with serving(f"xen:{spare.domid}", f"xen:{spare.name}") as served, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connected(served.port())) for _ in range(2)]
        for client in clients:
            client.refresh(incremental=False)
            assert np.array_equal(client.pixels & 0xFFFFFF, picture_of(spare))
        former = spare.domid
        spare.reset()
        spare.attach_rebooted()
        assert spare.domid != former
        spare.shrink()
        viewers = [Viewer(client) for client in clients]
        for viewer in viewers:
            stack.enter_context(contextlib.closing(viewer))
        draw(spare, *viewers)
        for viewer in viewers:
            type_a(spare, viewer)
        assert served.errors == ""


@dataclass
class Watched:
    """A vramtap that serves the spare guest by its name, and a viewer that stays connected."""

    served: Forked
    port: int
    viewer: Viewer


@pytest.fixture(scope="module")
def watched(spare: StagedGuest) -> Iterator[Watched]:
    with serving(f"xen:{spare.name}", tracker="xen") as served:
        port = served.port()
        with viewer_at(port) as viewer:
            yield Watched(served, port, viewer)


def test_paused_domain_is_served_and_resumes(spare: StagedGuest, watched: Watched) -> None:
    draw(spare, watched.viewer)
    with spare.batch():
        xl("pause", spare.name)
        picture = picture_of(spare)
        spare.fill(4096, 3000, 0x102030)
        with viewer_at(watched.port) as late:
            late.shows(picture)
        watched.viewer.shows(picture)
        xl("unpause", spare.name)
    draw(spare, watched.viewer)
    assert watched.served.errors == ""


def test_tap_survives_a_checkpoint(spare: StagedGuest, watched: Watched, tmp_path: Path) -> None:
    # xl's daemon exits when the domain is suspended, so xl does not restart this domain from now on.
    draw(spare, watched.viewer)
    xl("save", "-c", spare.name, str(tmp_path / "image"))
    for _ in range(3):
        draw(spare, watched.viewer)
    type_a(spare, watched.viewer)
    assert watched.served.errors == ""


def test_restored_domain_is_followed(spare: StagedGuest, watched: Watched, tmp_path: Path) -> None:
    draw(spare, watched.viewer)
    before = picture_of(spare)
    image = str(tmp_path / "image")
    spare.detach()
    xl("save", spare.name, image)
    xl("restore", image)
    spare.attach_rebooted()
    watched.viewer.shows(before)
    draw(spare, watched.viewer)
    type_a(spare, watched.viewer)
    assert watched.served.errors == ""


def test_power_off_ends_the_tap(hap: bool) -> None:
    with (
        StagedGuest(f"ends-{hap:d}", hap=hap) as guest,
        serving(f"xen:{guest.name}") as served,
        viewer_at(served.port()) as viewer,
    ):
        guest.shrink()
        draw(guest, viewer)
        domid = guest.domid
        guest.power_off()
        guest.detach()
        ended = served.ended()
        assert (ended.status, ended.errors) == (0, "")
        assert served.report()["ended"] == f"domain {guest.name} (id {domid}) powered off"
        wait_for("its end", lambda: str(domid) not in ids() or None, WAIT_S, 0.5)
