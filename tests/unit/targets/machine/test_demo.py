"""DemoTarget: `demo:` URLs, and the VM behind them."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest

from support.machine_code import assemble
from vramtap.errors import TargetGone, UsageError, VramtapError
from vramtap.machine import choose_cpu
from vramtap.machine.layout import RAM_BYTES
from vramtap.machine.machine import Machine
from vramtap.machine.workloads import WORKLOADS
from vramtap.tap.tap import Tap
from vramtap.targets.machine.demo import DemoTarget, command_line
from vramtap.targets.open import open_target
from vramtap.targets.url import parse

if TYPE_CHECKING:
    from pathlib import Path


def test_parameters_become_the_guests_command_line() -> None:
    url = "demo:?workload=flip&seed=0xff&hz=0&mode=640x480&frames=7&cpu=unicorn"
    assert command_line(parse(url)) == "workload=flip seed=255 hz=0 mode=640x480 frames=7"
    assert command_line(parse("demo:")) == ""


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("workload=video-windw", r"workload=video-windw is not known \(did you mean video-window\?"),
        ("workload=x%20fault=ud", r"is not known \(known: desktop"),
        ("cpu=kmv", r"cpu=kmv is not known \(did you mean kvm\? known: auto, unicorn, kvm"),
        ("log=rings", r"did you mean ring\?"),
        ("seed=-1", r"seed=-1 is not a number"),
        ("seed=18446744073709551616", r"is not a number"),
        ("hz=3", r"hz=3 is not a valid rate \(use a power of two from 2 to 1024, or 0\)"),
        ("hz=1", r"hz=1 is not a valid rate"),
        ("hz=2048", r"hz=2048 is not a valid rate"),
        ("mode=640", r"mode=640 is not WIDTHxHEIGHT"),
        ("mode=641x480", r"mode=641x480 is not a mode of the guest \(use 320x200 to 2560x1600"),
        ("mode=2568x480", r"not a mode of the guest"),
        ("mode=640x199", r"not a mode of the guest"),
        ("frames=4294967296", r"frames=4294967296 is outside"),
        ("wrkload=x", r"'wrkload' is not a parameter of demo: \(did you mean workload\?"),
    ],
)
def test_invalid_parameters_are_refused(query: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_target(f"demo:?{query}")


async def test_first_picture_is_drawn_on_attach(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "vramtap")
    async with Tap(open_target("demo:?mode=640x480&cpu=unicorn")) as tap:
        assert (tap.screen.width, tap.screen.height) == (640, 480)
        assert len(set(tap.screen.pixels.ravel().tolist())) > 100, "a desktop"
        assert tap.target.input is not None
    assert f"{tap.target.url}: CPU unicorn: as requested" in caplog.messages
    assert "guest: vramtap guest: desktop, 640x480, seed 0" in caplog.messages


@pytest.mark.parametrize("workload", WORKLOADS)
async def test_guest_knows_each_workload(workload: str) -> None:
    async with Tap(open_target(f"demo:?workload={workload}&mode=320x200&frames=1&cpu=unicorn")) as tap:
        assert tap.screen.pixels.any()
        assert tap.closed is None


async def test_vm_ends_with_the_tap(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[Machine] = []
    close = Machine.close

    def note(machine: Machine) -> None:
        closed.append(machine)
        close(machine)

    monkeypatch.setattr(Machine, "close", note)
    async with Tap(open_target("demo:?mode=320x200&cpu=unicorn")):
        assert closed == []
    assert [machine.ended for machine in closed] == ["the machine was closed"]


async def test_cancelled_attach_closes_the_vm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closed = asyncio.Event()
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(Machine, "close", lambda self: loop.call_soon_threadsafe(closed.set))
    entering = asyncio.create_task(DemoTarget(parse("demo:?cpu=unicorn")).__aenter__())
    await asyncio.sleep(0)
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering
    async with asyncio.timeout(60):
        await closed.wait()


def image(tmp_path: Path, source: str) -> str:
    path = tmp_path / "a & b%.bin"
    path.write_bytes(assemble(source))
    return str(path).replace("%", "%25").replace("&", "%26")


async def test_own_image_is_run(tmp_path: Path) -> None:
    url = f"demo:?image={image(tmp_path, '1: hlt; jmp 1b')}&cpu=unicorn"
    async with Tap(open_target(url)) as tap:
        assert await tap.target.mode() is None


async def test_faulting_image_reports_its_address(tmp_path: Path) -> None:
    url = f"demo:?image={image(tmp_path, 'ud2')}&cpu=unicorn"
    with pytest.raises(TargetGone, match=r"(?i)invalid .* at rip 0x100000, cr2 0x"):
        await Tap(open_target(url)).__aenter__()


async def test_invalid_images_are_refused(tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.touch()
    with large.open("r+b") as file:
        file.truncate(RAM_BYTES + 1)
    with pytest.raises(UsageError, match=r"large: is longer than the VM's 64 MiB"):
        await Tap(open_target(f"demo:?image={large}")).__aenter__()
    with pytest.raises(UsageError, match="No such file"):
        await Tap(open_target(f"demo:?image={tmp_path}/none")).__aenter__()


async def test_unusable_cpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise VramtapError("open", "/dev/kvm", "EACCES", "join the group kvm")

    monkeypatch.setattr(choose_cpu, "_kvm", refuse)
    with pytest.raises(VramtapError, match=r"open /dev/kvm: EACCES \(join the group kvm\)"):
        await Tap(open_target("demo:?cpu=kvm")).__aenter__()
