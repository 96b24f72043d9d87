"""Failures of vramtap in dom0: missing privilege, missing libraries, SIGKILL."""

from __future__ import annotations

import contextlib
import random
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from xen.dom0.driver import Paging
from xen.dom0.driver_domain import xl
from xen.dom0.driver_log import DirtyLog
from xen.dom0.forked import NOBODY, run, serving
from xen.dom0.served import Viewer, picture_of, viewer_at

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xen.dom0.driver_staged import StagedGuest

pytest_plugins = ("xen.dom0.spare",)

LIBRARIES = Path("/usr/lib/x86_64-linux-gnu")
KILLS = 5
VNC = ("--vnc", "127.0.0.1:0")


@pytest.fixture(autouse=True)
def small_picture(spare: StagedGuest) -> None:
    spare.paging(Paging.OFF)
    if (spare.width, spare.bpp) != (400, 32):
        spare.shrink()


def log_of(spare: StagedGuest) -> DirtyLog:
    """Return the log of the shown frame, which is the range that vramtap tracks."""
    return DirtyLog(spare.domid, spare.lfb_gfn, spare.frame_pages)


@contextlib.contextmanager
def hidden(name: str, into: Path) -> Iterator[None]:
    """Move all files of a library away inside the `with` block."""
    found = list(LIBRARIES.glob(f"{name}.so*"))
    assert found
    for path in found:
        path.rename(into / path.name)
    try:
        yield
    finally:
        for path in found:
            (into / path.name).rename(path)


def test_missing_privilege_is_reported_with_the_remedy(spare: StagedGuest, tmp_path: Path) -> None:
    url, before = f"xen:{spare.name}", sorted(Path("/var/lib/xen").iterdir())
    for arguments in (("serve", url, *VNC), ("screenshot", url, "-o", str(tmp_path / "a.png"))):
        complaint = run(*arguments, uid=NOBODY).complaint
        assert complaint == "vramtap: xs_open: Permission denied (run as root in Xen's dom0)"
    assert sorted(Path("/var/lib/xen").iterdir()) == before
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("library", "package"),
    [
        ("libxenstore", "libxenstore4"),
        ("libxenforeignmemory", "libxenforeignmemory1"),
        ("libxendevicemodel", "libxendevicemodel1"),
        ("libxentoollog", "libxentoollog1"),
    ],
)
def test_missing_library_is_reported_with_its_package(
    spare: StagedGuest, tmp_path: Path, library: str, package: str
) -> None:
    with hidden(library, tmp_path):
        complaint = run("serve", f"xen:{spare.name}", *VNC, "--tracker", "xen").complaint
    assert f"{library}.so" in complaint
    assert f"(apt install {package}, or your distribution's Xen libraries)" in complaint


def test_frames_are_exact_without_libxenctrl(spare: StagedGuest, tmp_path: Path) -> None:
    with hidden("libxenctrl", tmp_path), serving(f"xen:{spare.name}", tracker="xen") as served:
        port = served.port()
        with viewer_at(port) as viewer:
            for at in range(5):
                spare.fill(at * 20 * 4096, 2, 0xC0FFEE + at)
                viewer.shows(picture_of(spare))
        ended = served.interrupt()
    assert (ended.status, ended.errors) == (0, "")


def stress(spare: StagedGuest, viewer: Viewer, chance: random.Random) -> None:
    """Write a random number of fills to the upper half of the frame, and send pointer motions."""
    words = spare.frame_pages * 512
    for at in range(chance.randrange(20, 200)):
        begin = chance.randrange(words)
        spare.fill(begin * 4, min(words - begin, 2000), chance.getrandbits(24))
        if not at % 8:
            viewer.client.pointer(at, 100 - at % 100)


def kill_during_stress(spare: StagedGuest, seed: int) -> None:
    with serving(f"xen:{spare.name}", tracker="xen") as served, viewer_at(served.port()) as viewer:
        viewer.shows(picture_of(spare))
        with spare.batch():
            stress(spare, viewer, random.Random(seed))
            assert served.kill().status == -signal.SIGKILL
            # The monitor is free at once, and the guest continues.
            assert "running" in xl("qemu-monitor-command", spare.name, "info status")
            xl("vcpu-set", spare.name, "1")
        spare.check()


def check_tracking_after_kills(spare: StagedGuest, kills: int) -> None:
    """Kill vramtap `kills` times; check that Xen still tracks, and that the next vramtap ends that."""
    for seed in range(kills):
        kill_during_stress(spare, seed)
    with log_of(spare) as log:
        # Xen continues to track the range of the killed vramtap.
        log.ask()
        pages = spare.fill(100 * 4096, 1, 0x424242)
        assert log.ask() == set(pages)
        with serving(f"xen:{spare.name}", tracker="xen") as served:
            with viewer_at(served.port()) as viewer:
                for at in range(3):
                    spare.fill(at * 40 * 4096, 1, 0x313131 + at)
                    viewer.shows(picture_of(spare))
            ended = served.interrupt()
        assert (ended.status, ended.errors) == (0, "")
        # The next vramtap ended the tracking when it exited, so tracking this range starts anew.
        assert log.ask() is None
        log.stop()


def test_sigkill_leaves_only_tracking_which_the_next_tap_ends(spare: StagedGuest) -> None:
    check_tracking_after_kills(spare, 1)


def test_repeated_sigkill_leaves_only_tracking(spare: StagedGuest) -> None:
    check_tracking_after_kills(spare, KILLS)
