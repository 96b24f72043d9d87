"""QEMU with other machines, devices, accelerators, users, and in a sandbox."""

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
from support.process_state import protections
from support.program import assert_one_line, run
from support.testbed.errors import TestbedError
from support.testbed.guest import Guest
from support.testbed.require import require
from vramtap.errors import KernelError
from vramtap.linux.procfs import status_field
from vramtap.pages import PAGE_SIZE
from vramtap.targets.qemu.target import QemuTarget

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

UPDATES = 20
"""Number of updates for which a painter is followed; each has some thousand pixels."""


async def follows(guest: Guest) -> None:
    """Check that a tap shows exactly what is drawn, logged and armed, and that it leaves QEMU as it was."""
    async with vramtap.open(guest.url) as tap, ModelClient(tap) as client:
        assert tap.stats.tracker == "hybrid", tap.stats.tracker_why
        for command in (
            "fbtool noise 3",
            "seq 1 99 >/dev/tty1",
            "fbtool stress 7 3000",
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
    "with 64 MiB of video RAM and a second VGA": (
        "none",
        ("-device", "VGA,vgamem_mb=64", "-device", "secondary-vga"),
    ),
}


@pytest.mark.parametrize(("vga", "arguments"), VARIANTS.values(), ids=list(VARIANTS))
async def test_a_linux_guest_in_unusual_configurations(vga: str, arguments: tuple[str, ...]) -> None:
    require_arming()
    with Guest(arguments, vga=vga) as guest:
        guest.quiet()
        assert (status_field(guest.pid, "Seccomp") == "2") == ("-sandbox" in arguments)
        await follows(guest)


async def test_bochs_display_can_be_tapped() -> None:
    """bochs-display has the registers and the memory, but not the ports and modes of a VGA."""
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


async def test_a_qemu_that_changed_its_user_can_be_tapped() -> None:
    """Only root may read the memory of a process that has changed its user."""
    require(os.geteuid() == 0, "QEMU changes its user only when started as root")
    with painter("-runas", "nobody") as guest:
        assert (status_field(guest.pid, "Uid") or "").split()[0] == "65534"
        async with vramtap.open(guest.url()) as tap, ModelClient(tap) as client:
            assert tap.stats.tracker == "hybrid", tap.stats.tracker_why
            await painted(guest, client)
            # QEMU's user does not own the file that vramtap lends.
            assert np.array_equal(await tap.target.snapshot(), client.pixels)
        assert not protections(guest.pid)


async def painted(guest: Painter, client: ModelClient) -> None:
    """Check that the client follows the painter, and has the exact picture when the guest is stopped."""
    guest.monitor.execute("cont")
    await client.until(lambda: client.pixels.shape == SIZE)
    goal = client.updates + UPDATES
    await client.until(lambda: client.updates >= goal)
    await asyncio.to_thread(guest.monitor.execute, "stop")
    truth = await asyncio.to_thread(guest.picture)
    assert truth.any()
    await client.shows(truth)


async def test_a_kvm_guest_can_be_tapped() -> None:
    """KVM writes through its own page tables, whose writes the log must see too."""
    require(os.access("/dev/kvm", os.R_OK | os.W_OK), "/dev/kvm does not exist, or this user may not open it")
    require_arming()
    with painter("-accel", "kvm") as guest:
        # The tap begins with the firmware's first text.
        async with vramtap.open(guest.url()) as tap, ModelClient(tap) as client:
            assert tap.stats.tracker == "hybrid", tap.stats.tracker_why
            for _ in range(3):
                await painted(guest, client)
            assert tap.stats.all_dirty.keys() <= {"first", "armed", "woken"}
            assert tap.stats.failures == 0
        assert not protections(guest.pid)
        # The guest is stopped in the middle of a picture, armed, and continued.
        async with tapped(guest.url(), ArmAtOnce()) as (tap, tracker), ModelClient(tap) as client:
            for _ in range(3):
                await until(lambda: tracker.armed)
                await painted(guest, client)
            assert tap.stats.all_dirty["woken"] >= 3
            assert tap.stats.failures == 0
        assert not protections(guest.pid)


@pytest.fixture
def powerless() -> tuple[str, ...]:
    """Return the command that runs a program without any capability, or a way to get one."""
    if os.geteuid():
        return ()
    drop = [f"--{kind}=-all" for kind in ("inh-caps", "ambient-caps", "bounding-set")]
    return ("setpriv", "--no-new-privs", "--securebits=+noroot", *drop)


def test_tapping_needs_no_capability(powerless: tuple[str, ...]) -> None:
    """To tap a process of the same user takes no capability."""
    with painter(prefix=powerless) as guest:
        assert int(status_field(guest.pid, "CapEff") or "1", 16) == 0
        done = run("watch", guest.url(), "--tracker", "log", "--json", "-n", "30", prefix=powerless)
        assert done.status == 0, done
        assert len(done.lines) == 30
        assert {(line["width"], line["height"]) for line in done.lines} >= {SIZE[::-1]}
        assert not protections(guest.pid)


async def test_second_tap_falls_back_to_compare() -> None:
    with painter() as guest:
        async with vramtap.open(guest.url(0)) as first, ModelClient(first) as one:
            assert first.stats.tracker == "hybrid"
            with pytest.raises(KernelError, match="EBUSY"):
                async with vramtap.open(guest.url(1), tracker="log"):
                    pass
            async with vramtap.open(guest.url(1)) as second, ModelClient(second) as other:
                assert second.stats.tracker == "compare"
                assert "EBUSY (another userfaultfd holds this range: another tap" in second.stats.tracker_why
                for client, neighbour in ((one, other), (other, one)):
                    await painted(guest, client)
                    await neighbour.shows(guest.picture())


async def test_the_log_is_free_after_a_tap_has_ended() -> None:
    with painter() as guest:
        for number in (0, 1, 0):
            async with vramtap.open(guest.url(number)) as tap, ModelClient(tap) as client:
                assert tap.stats.tracker == "hybrid", tap.stats.tracker_why
                await painted(guest, client)


async def test_a_background_snapshot_is_refused_while_the_guest_is_tapped() -> None:
    """A range can have one userfaultfd. QEMU reports this during the tap, and not after it."""
    capability = [{"capability": "background-snapshot", "state": True}]
    with painter() as guest:
        async with vramtap.open(guest.url()) as tap, ModelClient(tap) as client:
            assert tap.stats.tracker == "hybrid"
            with pytest.raises(TestbedError, match="not compatible with guest memory"):
                guest.monitor.execute("migrate-set-capabilities", capabilities=capability)
            await painted(guest, client)
        guest.monitor.execute("migrate-set-capabilities", capabilities=capability)


async def test_a_guest_that_starts_during_attach_is_tapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before its first instruction the guest has not placed its video RAM, so vramtap asks again."""
    searched = asyncio.Event()
    search = QemuTarget._vram_address

    async def search_and_report(target: QemuTarget) -> int | None:
        found = await search(target)
        searched.set()
        return found

    monkeypatch.setattr(QemuTarget, "_vram_address", search_and_report)
    with painter("-S") as guest:
        tap = vramtap.open(guest.url())
        attaching = asyncio.create_task(tap.__aenter__())
        await searched.wait()
        await asyncio.to_thread(guest.monitor.execute, "cont")
        await attaching
        try:
            async with ModelClient(tap) as client:
                await painted(guest, client)
        finally:
            await tap.__aexit__(None, None, None)


def test_a_qemu_outside_the_pid_namespace_is_refused(guest: Guest, tmp_path: Path) -> None:
    apart = (
        "unshare",
        *(["--user", "--map-root-user"] if os.geteuid() else []),
        "--pid",
        "--fork",
        "--mount-proc",
    )
    done = run("screenshot", guest.url, "-o", tmp_path / "picture.png", prefix=apart)
    assert_one_line(done, 1, r"connect qemu:\S+: QEMU runs in a pid namespace .+ \(.+\)")


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """Leave this process no free descriptor."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)


async def test_a_lack_of_descriptors_is_survived(guest: Guest) -> None:
    """A framebuffer needs no descriptor. Without one vramtap repeats the screendump until it works."""
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
