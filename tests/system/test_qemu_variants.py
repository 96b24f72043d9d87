"""QEMU as people start it: other machines, devices and accelerators, sandboxed, as others, powerless."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
from typing import TYPE_CHECKING

import numpy as np
import pytest

import vramtap
from support.forced import ArmAtOnce, require_arming, tapped, until
from support.model_client import ModelClient
from support.painter import SIZE, Painter, painter
from support.program import assert_one_line, run
from support.testbed.errors import LabError
from support.testbed.guest import Guest
from support.testbed.require import require
from vramtap.errors import KernelError
from vramtap.linux.procfs import status_field, vm_flags
from vramtap.pages import PAGE_SIZE
from vramtap.targets.qemu.target import QemuTarget

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

UPDATES = 20
"""That a painter is followed for; each has some thousand pixels."""


def protections(pid: int) -> list[str]:
    """Mappings that a userfaultfd has hold of."""
    return [str(mapping) for mapping, flags in vm_flags(pid) if "uw" in flags]


async def follows(guest: Guest) -> None:
    """A tap follows what is drawn, exactly, by the log and when armed, and leaves QEMU as it was."""
    async with vramtap.open(guest.url) as tap, ModelClient(tap) as client:
        assert tap.stats.tracker == "hybrid", tap.stats.tracker_why
        for command in (
            "fbtool noise 3",
            "seq 1 99 >/dev/tty1",
            "fbtool storm 7 3000",
            "fbtool edges 0xFFFFFF",
        ):
            await asyncio.to_thread(guest.run, command)
            await client.shows(await asyncio.to_thread(guest.screendump))
        assert tap.stats.snapshots == tap.stats.failures == 0
    assert not protections(guest.pid)
    async with tapped(guest.url, ArmAtOnce()) as (tap, tracker), ModelClient(tap) as client:
        for command in ("fbtool noise 4", "fbtool pixel 1023 767 0xF0A010"):
            await until(lambda: tracker.armed)
            await asyncio.to_thread(guest.run, command)
            await client.shows(await asyncio.to_thread(guest.screendump))
    assert not protections(guest.pid)


SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
SHARED = ("-object", "memory-backend-memfd,id=ram,size=256M", "-M", "memory-backend=ram")
VARIANTS = {
    "in QEMU's sandbox, its memory shared": ("std", ("-sandbox", SANDBOX, *SHARED)),
    "on a q35 machine, its memory locked": (
        "std",
        ("-M", "q35", "-overcommit", "mem-lock=on", "-mem-prealloc"),
    ),
    "with 64 MiB of video RAM, beside another": (
        "none",
        ("-device", "VGA,vgamem_mb=64", "-device", "secondary-vga"),
    ),
}


@pytest.mark.parametrize(("vga", "arguments"), VARIANTS.values(), ids=list(VARIANTS))
async def test_a_linux_guest(vga: str, arguments: tuple[str, ...]) -> None:
    require_arming()
    with Guest(arguments, vga=vga) as guest:
        guest.quiet()
        assert (status_field(guest.pid, "Seccomp") == "2") == ("-sandbox" in arguments)
        await follows(guest)


async def test_a_display_without_vga() -> None:
    """bochs-display has the registers and the memory, and none of VGA's ports and modes."""
    with Guest(("-device", "bochs-display"), vga="none", video_mode="normal") as guest:
        found = guest.run(
            "cd /sys/bus/pci/devices; for d in *; do grep -q 0x1234 $d/vendor && head -1 $d/resource; done; :"
        )
        base = int(found.split()[0], 16)
        async with vramtap.open(guest.url) as tap, ModelClient(tap) as client:
            assert tap.screen.mode is not None
            assert tap.stats.tracker == "hybrid"
            for at in (0, tap.screen.mode.end_bytes - 4, 7 * PAGE_SIZE - 4):
                await asyncio.to_thread(guest.run, f"devmem {base + at:#x} 32 0x00F0A010")
                await client.shows(await asyncio.to_thread(guest.screendump))
            assert np.count_nonzero(client.pixels == 0xF0A010) == 3
            assert tap.stats.snapshots == 0


async def test_qemu_that_became_another_user() -> None:
    """The kernel counts a process that changed its user as nobody's to look at but root's."""
    require(os.geteuid() == 0, "QEMU changes its user only when started as root")
    with painter("-runas", "nobody") as guest:
        assert (status_field(guest.pid, "Uid") or "").split()[0] == "65534"
        async with vramtap.open(guest.url()) as tap, ModelClient(tap) as client:
            assert tap.stats.tracker == "hybrid", tap.stats.tracker_why
            await painted(guest, client)
            # The file that QEMU is lent need not be QEMU's user's.
            assert np.array_equal(await tap.target.snapshot(), client.pixels)
        assert not protections(guest.pid)


async def painted(guest: Painter, client: ModelClient) -> None:
    """The client follows the painter for a while; stopped in the middle, it has the picture."""
    guest.monitor.execute("cont")
    await client.until(lambda: client.pixels.shape == SIZE)
    goal = client.updates + UPDATES
    await client.until(lambda: client.updates >= goal)
    await asyncio.to_thread(guest.monitor.execute, "stop")
    truth = await asyncio.to_thread(guest.picture)
    assert truth.any()
    await client.shows(truth)


async def test_a_kvm_guest() -> None:
    """Its writes go through page tables of KVM's own, which the log must have kept in step."""
    require(os.access("/dev/kvm", os.R_OK | os.W_OK), "/dev/kvm is not there, or not for this user")
    require_arming()
    with painter("-accel", "kvm") as guest:
        # From the firmware's first text on.
        async with vramtap.open(guest.url()) as tap, ModelClient(tap) as client:
            assert tap.stats.tracker == "hybrid", tap.stats.tracker_why
            for _ in range(3):
                await painted(guest, client)
            assert tap.stats.all_dirty.keys() <= {"first", "armed", "woken"}
            assert tap.stats.failures == 0
        assert not protections(guest.pid)
        # Stopped in the middle of a picture, armed, and let go on.
        async with tapped(guest.url(), ArmAtOnce()) as (tap, tracker), ModelClient(tap) as client:
            for _ in range(3):
                await until(lambda: tracker.armed)
                await painted(guest, client)
            assert tap.stats.all_dirty["woken"] >= 3
            assert tap.stats.failures == 0
        assert not protections(guest.pid)


@pytest.fixture
def powerless() -> tuple[str, ...]:
    """What runs a program without a single capability, nor a way to get one."""
    if os.geteuid():
        return ()
    drop = [f"--{kind}=-all" for kind in ("inh-caps", "ambient-caps", "bounding-set")]
    return ("setpriv", "--no-new-privs", "--securebits=+noroot", *drop)


def test_without_any_capability(powerless: tuple[str, ...]) -> None:
    """The same user and nothing else: that is all that tapping takes."""
    with painter(prefix=powerless) as guest:
        assert int(status_field(guest.pid, "CapEff") or "1", 16) == 0
        done = run("watch", guest.url(), "--tracker", "log", "--json", "-n", "30", prefix=powerless)
        assert done.status == 0, done
        assert len(done.lines) == 30
        assert {(line["width"], line["height"]) for line in done.lines} >= {SIZE[::-1]}
        assert not protections(guest.pid)


async def test_two_taps_of_one_guest() -> None:
    with painter() as guest:
        async with vramtap.open(guest.url(0)) as first, ModelClient(first) as one:
            assert first.stats.tracker == "hybrid"
            with pytest.raises(KernelError, match="EBUSY"):
                async with vramtap.open(guest.url(1), tracker="log"):
                    pass
            async with vramtap.open(guest.url(1)) as second, ModelClient(second) as other:
                assert second.stats.tracker == "compare"
                assert "EBUSY (another userfaultfd holds this range: another tap" in second.stats.tracker_why
                for client, beside in ((one, other), (other, one)):
                    await painted(guest, client)
                    await beside.shows(guest.picture())


async def test_the_second_tap_has_the_log_when_the_first_has_gone() -> None:
    with painter() as guest:
        for number in (0, 1, 0):
            async with vramtap.open(guest.url(number)) as tap, ModelClient(tap) as client:
                assert tap.stats.tracker == "hybrid", tap.stats.tracker_why
                await painted(guest, client)


async def test_a_background_snapshot_is_refused_while_the_guest_is_tapped() -> None:
    """A range has one userfaultfd: QEMU says so when it is asked, and no more once we have gone."""
    capability = [{"capability": "background-snapshot", "state": True}]
    with painter() as guest:
        async with vramtap.open(guest.url()) as tap, ModelClient(tap) as client:
            assert tap.stats.tracker == "hybrid"
            with pytest.raises(LabError, match="not compatible with guest memory"):
                guest.monitor.execute("migrate-set-capabilities", capabilities=capability)
            await painted(guest, client)
        guest.monitor.execute("migrate-set-capabilities", capabilities=capability)


async def test_a_guest_that_is_started_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first instruction QEMU cannot tell where its video RAM is, and is asked again."""
    asked = asyncio.Event()
    find = QemuTarget._vram_by_block

    async def find_and_say(target: QemuTarget) -> int | None:
        found = await find(target)
        asked.set()
        return found

    monkeypatch.setattr(QemuTarget, "_vram_by_block", find_and_say)
    with painter("-S") as guest:
        tap = vramtap.open(guest.url())
        attaching = asyncio.create_task(tap.__aenter__())
        await asked.wait()
        await asyncio.to_thread(guest.monitor.execute, "cont")
        await attaching
        try:
            async with ModelClient(tap) as client:
                await painted(guest, client)
        finally:
            await tap.__aexit__(None, None, None)


def test_qemu_in_a_pid_namespace_that_is_not_seen(guest: Guest, tmp_path: Path) -> None:
    apart = (
        "unshare",
        *(["--user", "--map-root-user"] if os.geteuid() else []),
        "--pid",
        "--fork",
        "--mount-proc",
    )
    done = run("screenshot", guest.url, "-o", tmp_path / "picture.png", prefix=apart)
    assert_one_line(done, 1, r"connect qemu:\S+: QEMU runs in a pid namespace not seen from here \(.+\)")


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """This process has none left."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)


async def test_being_out_of_descriptors_passes(guest: Guest) -> None:
    """With a framebuffer none is needed; without one the picture is taken again until it can be."""
    async with vramtap.open(guest.url) as tap:
        with no_descriptors():
            await tap.refresh()
        await asyncio.to_thread(guest.run, "fbtool off")
        await tap.refresh()
        with no_descriptors(), pytest.raises(KernelError) as caught:
            await tap.refresh()
        assert caught.value.errno == errno.EMFILE
        async with ModelClient(tap) as client:
            await client.shows(await asyncio.to_thread(guest.screendump))
        assert tap.closed is None
